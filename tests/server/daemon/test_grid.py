"""What a site can send in the place of an answer: it fails alone, and the run goes on."""

import json
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
)

from wardround_server.flower import grid as module
from wardround_server.flower.grid import RunGrid, _message


def answer(size=4, *, arrays=1, number=1):
    record = {f"x{n}": Array(np.full(size, number * 100 + n, "f4")) for n in range(arrays)}
    content = RecordDict({"a": ArrayRecord(record), "c": ConfigRecord({"n": number})})
    return _message(1, number, "train", content, group="1", ttl=60)


class Runtime:
    """Flower's side of a run: what nodes have uploaded, by id."""

    def __init__(self):
        self.messages, self.store, self.confirmed = [], {}, []

    def add(self, message, reply_to):
        message.metadata.__dict__["_reply_to_message_id"] = reply_to
        objects = get_all_nested_objects(message)
        self.store |= {name: part.deflate() for name, part in objects.items()}
        self.messages.append((message, get_object_tree(message)))
        return {type(part).__name__: name for name, part in objects.items()}

    def PullMessages(self, _):  # noqa: N802 - as Flower calls it
        taken, self.messages = self.messages, []
        return SimpleNamespace(
            messages_list=[message for message, _ in taken],
            message_object_trees=[tree for _, tree in taken],
        )

    def ConfirmMessageReceived(self, request):  # noqa: N802
        self.confirmed.append(request.message_object_id)


@pytest.fixture
def runtime():
    return Runtime()


@pytest.fixture
def grid(runtime):
    made = RunGrid.__new__(RunGrid)
    made._runtime, made._arriving, made.run_id = runtime, {}, 1
    made._largest, made._taken = module._DECENT_BYTES, 0
    made._grid = SimpleNamespace(node=None)
    made._pull = lambda piece: runtime.store[piece]
    return made


def replies(grid, *ids):
    return {reply.message_id: reply for reply in grid.replies(ids)}


def test_whole_answers_are_taken(grid, runtime):
    runtime.add(answer(number=7), "q")
    reply = replies(grid, "q")["q"]
    assert (reply.failure, reply.lost) == ("", False)
    np.testing.assert_array_equal(reply.content["a"]["x0"].numpy(), np.full(4, 700, "f4"))
    assert len(runtime.confirmed) == 1


def chunks(places):
    def change(text):
        return text.replace(b'"arraychunk_ids": [0]', places).replace(
            b'"arraychunk_ids":[0]', places
        )

    return change


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Array", chunks(b'"arraychunk_ids": [9]')),
        ("Array", chunks(b'"arraychunk_ids": ["x"]')),
        ("Array", chunks(b'"arraychunk_ids": null')),
        ("Array", lambda text: text[: len(text) // 2]),
        ("Array", lambda _: b""),
        ("Array", lambda _: b"\xff" * 100),
        ("ArrayRecord", lambda text: text.replace(b"x0", b"\xff0")),
        ("ArrayRecord", lambda text: text.split(b"\0")[0] + b"\0[]"),
        ("ArrayChunk", lambda text: text.replace(b"ArrayChunk", b"Nothing")),
        ("ConfigRecord", lambda text: text[:-1]),
        ("RecordDict", lambda text: text.replace(b"RecordDict", b"Message")),
        ("Message", lambda text: text.replace(b"Message", b"Array")),
        ("Message", lambda text: text[:20]),
    ],
)
def test_a_malformed_answer_fails_alone(grid, runtime, kind, change):
    names = runtime.add(answer(number=1), "q")
    runtime.add(answer(number=2), "r")
    spoilt = change(runtime.store[names[kind]])
    assert spoilt != runtime.store[names[kind]]
    runtime.store[names[kind]] = spoilt
    found = replies(grid, "q", "r")
    assert (found["q"].content, found["q"].lost) == (None, False)
    assert "malformed" in found["q"].failure
    assert found["r"].content is not None
    assert replies(grid, "q", "r") == {}, "it is taken twice"


def test_something_else_than_a_message_fails_alone(grid, runtime):
    runtime.add(answer(), "q")
    ((message, _),) = runtime.messages
    runtime.messages = [(message, get_object_tree(message.content))]
    reply = replies(grid, "q")["q"]
    assert (reply.content, reply.failure) == (None, "the answer is malformed")


@pytest.mark.parametrize("arrays", [1, 10])
def test_an_answer_far_larger_than_any_request_is_not_held(grid, runtime, arrays):
    """In one array or in many; what a site uploads must not fill the server's memory."""
    grid._largest = 1_000_000
    runtime.add(answer(200_000 // arrays, arrays=arrays), "fits")
    assert replies(grid, "fits")["fits"].content is not None
    runtime.add(answer(300_000 // arrays, arrays=arrays), "q")
    reply = replies(grid, "q")["q"]
    assert (reply.content, reply.failure) == (None, "the answer is malformed")


def test_the_same_piece_again_and_again_counts_each_time(grid, runtime):
    grid._largest = 1_000_000
    names = runtime.add(answer(10_000), "q")
    again = chunks(b'"arraychunk_ids": ' + json.dumps([0] * 1000).encode())
    runtime.store[names["Array"]] = again(runtime.store[names["Array"]])
    assert replies(grid, "q")["q"].content is None
    assert grid._taken < 2_000_000


def test_a_superlink_out_of_reach_is_no_malformed_answer(grid, runtime):
    runtime.add(answer(), "q")

    def away(_):
        raise httpx.ConnectError("away")

    grid._pull = away
    with pytest.raises(httpx.ConnectError):
        replies(grid, "q")


@pytest.mark.parametrize(
    ("code", "lost"),
    [
        (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, False),
        (ErrorCode.UNKNOWN, True),
        (ErrorCode.MESSAGE_UNAVAILABLE, True),
        (ErrorCode.REPLY_MESSAGE_UNAVAILABLE, True),
    ],
)
def test_what_a_site_refuses_is_not_lost_and_what_flower_gives_up_is(grid, runtime, code, lost):
    reply = Message(Error(code=code, reason="why"), reply_to=answer())
    runtime.add(reply, "q")
    found = replies(grid, "q")["q"]
    assert (found.content, found.failure, found.lost) == (None, "why", lost)


def test_an_upload_that_broke_off_is_lost(grid, runtime):
    runtime.add(answer(), "q")

    def gone(_):
        raise module.ObjectPullError("a", "gone")

    grid._pull = gone
    assert replies(grid, "q")["q"].lost
