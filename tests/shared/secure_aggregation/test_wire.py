"""One encoding of every message, and no way to crash the parser."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround_shared.secure_aggregation import wire
from wardround_shared.secure_aggregation.codec import MAX_SITES
from wardround_shared.secure_aggregation.faults import MessageError, SecureAggregationError
from wardround_shared.secure_aggregation.keys import RoundContext
from wardround_shared.secure_aggregation.roster import Member, Roster
from wardround_shared.secure_aggregation.site_state import SiteState
from wardround_shared.secure_aggregation.wire import decode, encode

CONTEXT = RoundContext(
    protocol=1,
    study_id="study",
    run="run",
    round=7,
    roster_digest=b"r" * 32,
    model_digest=b"m" * 32,
    layout_digest=b"l" * 32,
)


def site_keys(site):
    return wire.SiteKeys(
        site=site, sealing=b"s" * 32, masking=b"k" * 32, commitment=b"c" * 32, signature=b"x" * 64
    )


SHARES = ((0, b"a" * 34), (3, b"b" * 34))
MESSAGES = [
    wire.KeysRequest(context=CONTEXT),
    wire.Advertisement(context=CONTEXT, keys=site_keys(2)),
    wire.Advertisements(context=CONTEXT, keys=(site_keys(0), site_keys(5))),
    wire.SealedShares(context=CONTEXT, shares=((1, b"sealed"), (2, b"other"))),
    wire.MaskRequest(context=CONTEXT, shares=((1, b"sealed"), (2, b""))),
    wire.MaskedVector(context=CONTEXT, vector=np.array([1, 2**32 - 1, 77], np.uint32)),
    wire.Survivors(context=CONTEXT, survivors=(0, 1, 5), dropped=(3,)),
    wire.Confirmation(context=CONTEXT, signature=b"x" * 64),
    wire.UnmaskRequest(context=CONTEXT, signatures=((0, b"x" * 64), (9, b"y" * 64))),
    wire.UnmaskAnswer(context=CONTEXT, self_seeds=SHARES, masking_keys=()),
]
each_message = pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)


@each_message
def test_a_message_survives_the_wire(message):
    data = encode(message)
    read = decode(data, type(message))
    assert encode(read) == data
    for field in dataclasses.fields(message):
        assert np.array_equal(getattr(read, field.name), getattr(message, field.name))


def test_kinds_are_distinct():
    assert len({message.kind for message in MESSAGES}) == len(MESSAGES)


def test_a_received_vector_is_not_copied():
    data = encode(MESSAGES[5])
    vector = decode(data, wire.MaskedVector).vector
    assert not vector.flags.owndata
    assert not vector.flags.writeable


@each_message
def test_truncated_anywhere_is_refused(message):
    data = encode(message)
    for end in range(len(data)):
        with pytest.raises(MessageError):
            decode(data[:end], type(message))


@each_message
def test_anything_after_the_end_is_refused(message):
    with pytest.raises(MessageError, match="more than it should"):
        decode(encode(message) + b"\0", type(message))


def test_an_oversized_message_is_refused_before_it_is_read():
    with pytest.raises(MessageError, match="longer than any"):
        decode(bytes(wire.MAX_BYTES + 1), wire.Survivors)


def test_a_vector_longer_than_its_bytes_is_refused_without_memory_for_it():
    data = bytearray(encode(MESSAGES[5]))
    data[-16:-12] = (2**31).to_bytes(4, "big")
    with pytest.raises(MessageError, match="claims a vector"):
        decode(bytes(data), wire.MaskedVector)
    data[-16:-12] = (2**28).to_bytes(4, "big")
    with pytest.raises(MessageError, match="truncated"):
        decode(bytes(data), wire.MaskedVector)


def test_one_message_is_not_taken_for_another():
    with pytest.raises(MessageError, match="kind"):
        decode(encode(MESSAGES[3]), wire.MaskRequest)


def test_another_version_is_refused():
    data = bytearray(encode(MESSAGES[0]))
    data[4] = 2
    with pytest.raises(MessageError, match="version"):
        decode(bytes(data), wire.KeysRequest)


@pytest.mark.parametrize("sites", [(1, 0), (1, 1), (5, 3, 4)])
def test_a_list_has_one_order(sites):
    message = dataclasses.replace(MESSAGES[6], survivors=sites)
    with pytest.raises(MessageError, match="order"):
        encode(message)
    data = encode(dataclasses.replace(message, survivors=tuple(range(len(sites))), dropped=()))
    listed = b"".join(site.to_bytes(2, "big") for site in sites)
    data = data[: -2 - len(listed)] + listed + data[-2:]
    with pytest.raises(MessageError, match="order"):
        decode(data, wire.Survivors)


@pytest.mark.parametrize(
    "message",
    [
        dataclasses.replace(MESSAGES[0], context=dataclasses.replace(CONTEXT, run="x" * 256)),
        dataclasses.replace(MESSAGES[0], context=dataclasses.replace(CONTEXT, run="\ud800")),
        dataclasses.replace(MESSAGES[0], context=dataclasses.replace(CONTEXT, model_digest=b"")),
        dataclasses.replace(MESSAGES[0], context=dataclasses.replace(CONTEXT, round=2**32)),
        dataclasses.replace(MESSAGES[3], shares=((MAX_SITES, b""),)),
        dataclasses.replace(MESSAGES[3], shares=((-1, b""),)),
        dataclasses.replace(MESSAGES[3], shares=((1, b"x" * 256),)),
        dataclasses.replace(MESSAGES[5], vector=np.zeros(3)),
    ],
)
def test_what_does_not_fit_is_not_written(message):
    with pytest.raises(MessageError):
        encode(message)


@settings(max_examples=300)
@given(data=st.binary(max_size=300), message=st.sampled_from(MESSAGES))
def test_noise_is_refused(data, message):
    with pytest.raises(MessageError):
        decode(data, type(message))
    with pytest.raises(MessageError):
        decode(wire.MAGIC + bytes([wire.VERSION, message.kind]) + data, type(message))


@settings(max_examples=500)
@given(
    message=st.sampled_from(MESSAGES),
    at=st.floats(0, 1, exclude_max=True),
    change=st.binary(min_size=1, max_size=4),
    insert=st.booleans(),
)
def test_a_changed_message_is_refused_or_is_another_message(message, at, change, insert):
    data = encode(message)
    start = int(at * len(data))
    changed = data[:start] + change + data[start if insert else start + len(change) :]
    try:
        read = decode(changed, type(message))
    except MessageError:
        return
    assert encode(read) == changed


ROSTER = Roster(
    members=tuple(Member(site=name, identity=name.encode() * 32) for name in "abcd"), threshold=3
)
STATE = SiteState(
    site="a", study_id="study", run="run", roster_digest=b"r" * 32, latest=0, stages={}
)


@settings(max_examples=300)
@given(
    stored=st.sampled_from([(STATE, SiteState), (ROSTER, Roster)]),
    at=st.floats(0, 1, exclude_max=True),
    change=st.binary(min_size=1, max_size=4),
)
def test_a_changed_state_or_roster_is_refused_or_is_another(stored, at, change):
    value, kind = stored
    data = value.to_bytes()
    start = int(at * len(data))
    changed = data[:start] + change + data[start + len(change) :]
    try:
        read = kind.from_bytes(changed)
    except SecureAggregationError:
        return
    assert read.to_bytes() == changed


def test_a_roster_survives_the_wire():
    assert Roster.from_bytes(ROSTER.to_bytes()) == ROSTER
    assert Roster.from_bytes(ROSTER.to_bytes()).digest == ROSTER.digest
