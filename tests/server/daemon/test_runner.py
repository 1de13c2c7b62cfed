"""The one task of a run: taken, or the runner ends so that it is started again."""

import pytest

from wardround_server.daemon.runner import _task_of
from wardround_shared.errors import WardroundError


class Operator:
    def __init__(self, *tasks):
        self.tasks, self.finished = list(tasks), []

    def acquire(self):
        return self.tasks.pop(0) if self.tasks else None

    def finish(self, token, *, status, details=""):
        self.finished.append((token, status))


def test_the_task_of_the_run_is_taken_and_what_was_left_behind_is_ended():
    operator = Operator((1, "old"), (2, "ours"), (3, "later"))
    assert _task_of(operator, 2) == "ours"
    assert operator.finished == [("old", "failed")]


def test_without_a_task_the_run_does_not_fail_but_is_taken_up_again():
    """An error of ours would end the run for good, and only Flower is late."""
    with pytest.raises(RuntimeError) as raised:
        _task_of(Operator((1, "old")), 2)
    assert not isinstance(raised.value, WardroundError)
