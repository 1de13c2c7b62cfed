"""Answers on disk: the same bytes again, and nothing that is not whole."""

import errno

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from wardround_client import durable
from wardround_client.daemon.outbox import KEPT, Outbox
from wardround_shared.delivery import new_ticket
from wardround_shared.errors import PrivacyError
from wardround_shared.packing import pack


def answer(number=0):
    arrays = ArrayRecord({"p": Array(np.full(50, number, np.uint32))})
    return RecordDict({"masked": arrays, "said": ConfigRecord({"key": bytes([number])})})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "outbox"


def test_an_answer_is_the_same_after_a_restart_byte_for_byte(folder):
    ticket = new_ticket()
    Outbox(folder).put(ticket, answer(7))
    again = Outbox(folder).find(ticket)
    assert b"".join(pack(again)) == b"".join(pack(answer(7)))


def test_there_is_nothing_under_another_ticket(folder):
    outbox = Outbox(folder)
    outbox.put(new_ticket(), answer())
    assert outbox.find(new_ticket()) is None


def test_nobody_else_on_the_machine_can_read_it(folder):
    Outbox(folder).put(new_ticket(), answer())
    (file,) = folder.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600


def test_old_answers_make_room_for_new_ones(folder):
    outbox, tickets = Outbox(folder), [new_ticket() for _ in range(KEPT + 3)]
    for number, ticket in enumerate(tickets):
        outbox.put(ticket, answer(number))
    kept = [ticket for ticket in tickets if outbox.find(ticket) is not None]
    assert kept == tickets[-KEPT:]
    assert len(list(folder.iterdir())) == KEPT


def test_a_file_that_was_cut_off_anywhere_is_not_used(folder):
    outbox, ticket = Outbox(folder), new_ticket()
    outbox.put(ticket, answer())
    (file,) = folder.iterdir()
    data = file.read_bytes()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        assert outbox.find(ticket) is None
    file.write_bytes(data + b"\0")
    assert outbox.find(ticket) is None
    file.write_bytes(data)
    assert outbox.find(ticket) is not None


def test_what_writing_has_left_half_done_is_freed_with_the_next_start(folder):
    outbox, ticket = Outbox(folder), new_ticket()
    outbox.put(ticket, answer())
    half = folder / f"{new_ticket()}.answer.unfinished"
    half.write_bytes(b"x" * 1000)
    again = Outbox(folder)
    assert not half.exists()
    assert again.find(ticket) is not None


def test_a_full_disk_is_said_and_nothing_half_is_found(folder, monkeypatch):
    outbox, ticket = Outbox(folder), new_ticket()

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(PrivacyError, match="No space left") as raised:
        outbox.put(ticket, answer())
    assert str(folder) not in str(raised.value), "a path has left the site"
    assert outbox.find(ticket) is None
