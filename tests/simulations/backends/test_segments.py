"""Shared memory: what goes in comes out, once, and is gone afterwards."""

from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory

import pytest

from wardround_simulations.backends import segments
from wardround_simulations.backends.segments import (
    LARGE,
    Incoming,
    Names,
    Outgoing,
    ReplyReader,
    ReplyWriter,
    discard,
    pack,
)

MODEL = bytes(range(256)) * (LARGE // 128)
SMALL = b"x" * (LARGE - 1)


@pytest.fixture
def outgoing() -> Iterator[Outgoing]:
    sender = Outgoing(Names())
    yield sender
    sender.close()


def exists(name: str) -> bool:
    try:
        SharedMemory(name).close()
    except FileNotFoundError:
        return False
    return True


def test_large_byte_strings_arrive_and_do_not_lie_in_the_pickle(outgoing: Outgoing) -> None:
    outgoing.hold(MODEL)
    packed = pack({"model": MODEL, "small": SMALL}, outgoing.place)
    assert len(packed) < LARGE + 1000
    assert Incoming().unpack(packed) == {"model": MODEL, "small": SMALL}


def test_a_segment_lives_from_its_first_message_to_its_last(outgoing: Outgoing) -> None:
    outgoing.hold(MODEL)
    outgoing.hold(MODEL)
    places = {outgoing.place(MODEL) for _ in range(2)}
    assert len(places) == 1, "two messages, one segment"
    place = places.pop()
    assert place is not None
    outgoing.release(MODEL)
    assert exists(place[0])
    outgoing.release(MODEL)
    assert not exists(place[0])


def test_closing_unlinks_what_is_still_held() -> None:
    sender = Outgoing(Names())
    sender.hold(MODEL)
    place = sender.place(MODEL)
    assert place is not None
    sender.close()
    assert not exists(place[0])


def test_a_receiver_reads_a_model_once_and_forgets_it_with_the_next(outgoing: Outgoing) -> None:
    other = MODEL[::-1]
    outgoing.hold(MODEL)
    outgoing.hold(other)
    receiver = Incoming()
    first = receiver.unpack(pack(MODEL, outgoing.place))
    assert receiver.unpack(pack(MODEL, outgoing.place)) is first
    assert receiver.unpack(pack(other, outgoing.place)) == other
    assert receiver.unpack(pack(MODEL, outgoing.place)) is not first


def test_replies_take_two_segments_in_turn_which_grow_when_they_have_to() -> None:
    writer, reader, names = ReplyWriter(), ReplyReader(), Names()
    made = [names.new() for _ in range(6)]
    for name, value in zip(
        made, [MODEL, MODEL, MODEL[::-1], MODEL * 2, MODEL * 2, MODEL], strict=True
    ):
        assert reader.unpack(writer.pack({"reply": value}, [value], name)) == {"reply": value}
    assert [exists(name) for name in made] == [False, False, False, True, True, False]
    reader.close()
    assert not any(exists(name) for name in made)


def test_a_reply_is_there_until_the_next_but_one() -> None:
    writer, reader, names = ReplyWriter(), ReplyReader(), Names()
    first, second = writer.pack(MODEL, [MODEL], names.new()), b""
    for value in (MODEL[::-1], MODEL):
        second = writer.pack(value, [value], names.new())
        assert reader.unpack(first) == (MODEL if value != MODEL else MODEL[::-1])
        first = second
    assert reader.unpack(second) == MODEL
    reader.close()


def test_a_reply_without_room_takes_no_turn(monkeypatch) -> None:
    writer, reader, names = ReplyWriter(), ReplyReader(), Names()
    for size, room in [(1, True), (1, True), (3, False), (3, True), (1, True), (3, True)]:
        monkeypatch.setattr(segments, "_room_for", lambda size, room=room: room)
        value = MODEL * size
        assert reader.unpack(writer.pack(value, [value], names.new())) == value
    reader.close()


def test_without_room_all_goes_through_the_pipe(monkeypatch, outgoing: Outgoing) -> None:
    monkeypatch.setattr(segments, "_room_for", lambda size: False)
    outgoing.hold(MODEL)
    packed = pack(MODEL, outgoing.place)
    assert len(packed) > len(MODEL)
    assert Incoming().unpack(packed) == MODEL
    assert ReplyReader().unpack(ReplyWriter().pack(MODEL, [MODEL], "unused")) == MODEL


def test_more_than_all_of_shared_memory_has_no_room() -> None:
    if not segments.sys.platform.startswith("linux"):
        pytest.skip("only Linux has a file system to ask")
    assert segments._room_for(LARGE)
    assert not segments._room_for(1 << 60)


def test_discarding_what_a_killed_worker_may_have_made_is_safe() -> None:
    name = Names().new()
    discard(name)
    SharedMemory(name, create=True, size=10).close()
    discard(name)
    assert not exists(name)
