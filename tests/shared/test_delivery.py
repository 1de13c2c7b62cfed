"""What travels: tickets, small and large messages, and a site's word that it is at work."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from wardround_shared.delivery import (
    LARGEST_PACKED,
    Working,
    carried,
    is_unknown,
    new_ticket,
    opened,
    read_working,
    unknown_record,
    working_record,
)
from wardround_shared.errors import ProtocolError
from wardround_shared.packing import pack

TICKET = "0123456789abcdef" * 2


def model(size):
    array = Array(np.zeros(size, np.uint8))
    return RecordDict({"model": ArrayRecord({"p": array}), "said": ConfigRecord({"n": 1})})


def sent(**fields):
    return RecordDict({"ticket": ConfigRecord(fields)})


@pytest.mark.parametrize("size", [0, 1000, LARGEST_PACKED, 2 * LARGEST_PACKED])
def test_what_is_carried_is_opened_again(size):
    content = model(size)
    ticket, found = opened(carried(content, TICKET))
    assert ticket == TICKET
    assert list(found) == ["model", "said"]
    assert found["model"]["p"].data == content["model"]["p"].data
    assert found["said"] == content["said"]


def test_a_small_message_travels_in_one_piece_and_a_large_one_is_not_copied():
    assert list(carried(model(1000), TICKET)) == ["ticket"]
    large = model(2 * LARGEST_PACKED)
    travelling = carried(large, TICKET)
    assert travelling["model"] is large["model"]
    assert "ticket" not in large


def test_each_request_has_a_ticket_of_its_own():
    tickets = {new_ticket() for _ in range(100)}
    assert len(tickets) == 100
    assert all(opened(sent(id=ticket))[0] == ticket for ticket in tickets)


@pytest.mark.parametrize(
    "ticket",
    ["", "ab", TICKET[:-1], TICKET + "0", TICKET.upper(), "../" + TICKET[3:], "\0" * 32, "g" * 32],
)
def test_a_ticket_that_is_none_is_refused(ticket):
    """A site's outbox has a file for each: a ticket must never be a path."""
    with pytest.raises(ProtocolError, match="its ticket is none"):
        opened(sent(id=ticket))


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        sent(),
        sent(id=7),
        sent(id=b"0" * 32),
        RecordDict({"ticket": ArrayRecord({})}),
        sent(id=TICKET, content=b"garbage"),
        sent(id=TICKET, content=b"".join(pack(RecordDict())) + b"more"),
    ],
)
def test_what_is_malformed_is_refused(content):
    with pytest.raises(ProtocolError, match="malformed"):
        opened(content)


def test_a_site_says_how_far_it_is():
    working = Working(stage="training", done=250, total=1000)
    assert read_working(working_record(working)) == working
    assert read_working(RecordDict()) is None
    assert read_working(unknown_record()) is None


def test_a_stage_is_a_word_and_no_novel():
    told = read_working(working_record(Working(stage="x" * 1000, done=0, total=0)))
    assert told is not None
    assert len(told.stage) == 40


@pytest.mark.parametrize(
    "record",
    [
        ConfigRecord({}),
        ConfigRecord({"stage": 1, "done": 0, "total": 0}),
        ConfigRecord({"stage": "s", "done": 0.5, "total": 1}),
        ConfigRecord({"stage": "s", "done": "1", "total": 1}),
        ArrayRecord({}),
    ],
)
def test_a_word_that_says_nothing_is_refused(record):
    with pytest.raises(ProtocolError, match="not how far"):
        read_working(RecordDict({"working": record}))


def test_a_site_without_such_a_ticket_says_so():
    assert is_unknown(unknown_record())
    assert not is_unknown(working_record(Working(stage="s", done=0, total=0)))
