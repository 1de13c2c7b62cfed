"""Requests that take long: how far they are, restarts between, refusals, and what leaves."""

import threading
import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from wardround_client.daemon.outbox import Outbox
from wardround_client.daemon.tickets import Refusal, Tickets
from wardround_client.flower.tasks import request_of
from wardround_shared.delivery import (
    COLLECT,
    carried,
    is_unknown,
    new_ticket,
    opened,
    read_working,
)
from wardround_shared.errors import LedgerError, RunError
from wardround_shared.packing import pack

TRAIN = "train"


class Work:
    """The answerer: waits to be let go, and counts what it did."""

    def __init__(self):
        self.may_end = threading.Event()
        self.may_end.set()
        self.began = threading.Event()
        self.done = []
        self.fails = None

    def __call__(self, kind, content):
        self.began.set()
        assert self.may_end.wait(30)
        if self.fails is not None:
            raise self.fails
        self.done.append((kind, len(content)))
        array = Array(np.full(20, len(self.done), np.uint32))
        return RecordDict({"masked": ArrayRecord({"p": array})})


class Site:
    def __init__(self, folder):
        self.folder = folder
        self.work = Work()
        self.start()

    def start(self, hold=0.05):
        self.tickets = Tickets(self.work, Outbox(self.folder), site="north", hold=hold)

    def ask(self, ticket, kind=TRAIN, content=None):
        travelling = carried(content if content is not None else RecordDict(), ticket)
        reply = self.tickets.answer(request_of(kind, travelling)[0])
        found, inner = opened(reply)
        assert found == ticket
        return inner

    def until_done(self, ticket):
        end = time.monotonic() + 20
        while True:
            answer = self.ask(ticket, COLLECT)
            if read_working(answer) is None:
                return answer
            assert time.monotonic() < end


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path / "outbox")
    yield made
    made.work.may_end.set()
    made.tickets.close()


def spelled(content):
    return b"".join(pack(content))


def test_what_is_quick_is_answered_at_once(site):
    site.start(hold=20)
    assert "masked" in site.ask(new_ticket(), content=RecordDict({"c": ConfigRecord({"n": 1})}))
    assert site.work.done == [(TRAIN, 1)]


def test_what_is_slow_says_how_far_it_is_and_then_gives_its_answer(site):
    ticket = new_ticket()
    site.work.may_end.clear()
    assert read_working(site.ask(ticket)) is not None
    site.tickets.progress("training", 1, 4)
    working = read_working(site.ask(ticket, COLLECT))
    assert (working.stage, working.done, working.total) == ("training", 0, 0)
    site.work.may_end.set()
    assert "masked" in site.until_done(ticket)
    assert len(site.work.done) == 1


def test_the_same_request_again_is_not_worked_on_twice(site):
    ticket = new_ticket()
    site.work.may_end.clear()
    for _ in range(3):
        assert read_working(site.ask(ticket)) is not None
    site.work.may_end.set()
    first = site.until_done(ticket)
    assert spelled(site.ask(ticket)) == spelled(site.ask(ticket, COLLECT)) == spelled(first)
    assert len(site.work.done) == 1


def test_the_same_bytes_are_given_after_a_restart(site):
    ticket = new_ticket()
    site.work.may_end.set()
    first = site.until_done(ticket) if read_working(site.ask(ticket)) else site.ask(ticket)
    site.start()
    assert spelled(site.ask(ticket, COLLECT)) == spelled(first)
    assert spelled(site.ask(ticket)) == spelled(first)
    assert len(site.work.done) == 1


def test_after_a_restart_at_work_nothing_is_known_of_the_ticket(site):
    ticket = new_ticket()
    site.work.may_end.clear()
    assert read_working(site.ask(ticket)) is not None
    interrupted, site.work = site.work, Work()
    site.start()
    assert is_unknown(site.ask(ticket, COLLECT))
    assert site.work.done == []
    assert read_working(site.ask(ticket)) or "masked" in site.until_done(ticket)
    interrupted.may_end.set()


def test_a_ticket_that_was_never_heard_of_is_unknown_and_no_work(site):
    assert is_unknown(site.ask(new_ticket(), COLLECT))
    assert not site.work.began.wait(0.1)


def test_old_answers_are_found_on_disk(site):
    site.start(hold=20)
    tickets = [new_ticket() for _ in range(5)]
    answers = [spelled(site.ask(ticket)) for ticket in tickets]
    assert [spelled(site.ask(ticket, COLLECT)) for ticket in tickets] == answers
    assert len(set(answers)) == 5


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RunError("the training diverged"), "the training diverged"),
        (LedgerError("/srv/patients/mueller.db is damaged"), "LedgerError"),
        (ValueError("patient Mueller"), "ValueError"),
        (TimeoutError("/mnt/patients is slow"), "TimeoutError"),
    ],
)
def test_a_failure_is_a_refusal_that_says_no_more_than_it_may(site, error, reason):
    site.start(hold=20)
    site.work.fails = error
    ticket = new_ticket()
    for kind in (TRAIN, COLLECT):
        with pytest.raises(Refusal) as raised:
            site.ask(ticket, kind)
        assert str(raised.value) == reason


def test_an_answer_that_cannot_be_kept_is_not_given(site, monkeypatch):
    site.start(hold=20)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wardround_client.daemon.outbox.replace", full)
    with pytest.raises(Refusal, match="cannot be kept on the disk"):
        site.ask(new_ticket())
    assert len(site.work.done) == 1


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"ticket": ConfigRecord({"id": "../../etc/passwd"})}),
        RecordDict({"ticket": ConfigRecord({"id": "0" * 32, "content": b"garbage"})}),
    ],
)
def test_a_malformed_request_is_refused_and_is_no_work(site, content):
    with pytest.raises(Refusal, match="malformed"):
        site.tickets.answer(request_of(TRAIN, content)[0])
    assert not site.work.began.is_set()


def test_requests_are_worked_on_one_after_the_other(site):
    first, second = new_ticket(), new_ticket()
    site.work.may_end.clear()
    assert read_working(site.ask(first)) is not None
    assert read_working(site.ask(second, "evaluate")) is not None
    site.work.may_end.set()
    site.until_done(second)
    assert [kind for kind, _ in site.work.done] == [TRAIN, "evaluate"]


def test_whether_it_is_at_work_is_known(site):
    """A worker that is at work does not end for want of requests."""
    assert not site.tickets.busy
    ticket = new_ticket()
    site.work.may_end.clear()
    site.ask(ticket)
    assert site.tickets.busy
    site.work.may_end.set()
    site.until_done(ticket)
    assert not site.tickets.busy


@pytest.mark.parametrize("steps", [1, 2, 173, 10_000])
def test_what_leaves_is_the_same_whatever_the_number_of_steps(site, monkeypatch, steps):
    """A site's steps are its patients over the batch; the time that they take is seen anyhow."""
    now = [1000.0]
    monkeypatch.setattr(site.tickets, "_clock", lambda: now[0])
    words = []
    for step in range(steps):
        now[0] = 1000.0 + 20.0 * (step + 1) / steps
        site.tickets.progress("training", step + 1, steps)
        words.append(site.tickets._working)
    assert {word.total for word in words} == {0}
    assert words[-1].done <= 20 / 5
    assert [word.done for word in words] == sorted(word.done for word in words)


def test_nothing_but_that_it_moves_leaves(site, monkeypatch):
    """Numbers of steps, or shares of few, would tell how many patients a site has."""
    now = [0.0]
    monkeypatch.setattr(site.tickets, "_clock", lambda: now[0])
    ticket = new_ticket()
    site.work.may_end.clear()
    site.ask(ticket)
    seen = []
    for step in range(200):  # a step takes 0.1 s
        now[0] = step / 10
        site.tickets.progress("training", step, 200)
        seen.append(site.tickets._working)
    assert {one.total for one in seen} == {0}
    assert sorted({one.done for one in seen}) == [0, 1, 2, 3], "each five seconds"
    few = [one.done for one in seen]
    for step in range(2):  # a step takes 10 s: as many beats as there is time for
        now[0] += 10
        site.tickets.progress("training", step, 2)
    assert site.tickets._working.done == few[-1] + 2
    site.work.may_end.set()
