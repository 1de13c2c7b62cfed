"""When a site's worker gives back what it holds."""

import time

import pytest

from wardround_client.daemon import worker as module
from wardround_client.daemon.worker import Worker
from wardround_shared.supervision import RENEW


class Tickets:
    busy = False
    closed = False

    def close(self):
        self.closed = True


class Renewed(BaseException):
    pass


@pytest.fixture
def worker(monkeypatch):
    """One that has loaded its data, and heard nothing for longer than it waits."""
    made = Worker.__new__(Worker)
    made._answerer, made._tickets, made._changed = object(), Tickets(), False
    made._last = time.monotonic() - module._TIRED_SECONDS - 1

    def exits(code):
        assert code == RENEW
        raise Renewed

    monkeypatch.setattr(module.os, "_exit", exits)
    return made


def test_a_worker_without_requests_gives_its_memory_back(worker):
    worker._take_one = lambda: pytest.fail("it goes on")
    with pytest.raises(Renewed):
        worker.run()
    assert worker._tickets.closed


def test_a_training_that_takes_longer_than_the_server_asks_is_not_broken_off(worker):
    """The server may be down for a quarter of an hour; the privacy is paid for."""
    worker._tickets.busy, looks = True, []

    def look():
        looks.append(1)
        worker._tickets.busy = len(looks) < 5
        return True

    worker._take_one = look
    with pytest.raises(Renewed):
        worker.run()
    assert len(looks) == 5


def test_a_worker_that_has_loaded_nothing_has_nothing_to_give_back(worker):
    worker._answerer = None
    worker._take_one = worker._woken = lambda: False  # the SuperNode is gone
    assert worker.run() is None
