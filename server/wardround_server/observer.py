"""Who watches a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from wardround_server.rounds import Dropped, RosterLine

Metrics = dict[str, Any]


class Observer:
    """Who watches a run: a progress bar, plain lines, or a daemon's status.

    Nothing happens here: who inherits from it does something about what it has a use for. `opened`
    and `waiting` are told only where sites are waited for (`Attendance.waits`).
    """

    def joined(self, sites: Sequence[str], absent: Sequence[Dropped]) -> None:
        """The sites that answered the first message, and those that did not."""

    def opened(self, round_number: int, attempt: int, invited: Sequence[str]) -> None:
        """These sites are asked now; `attempt` counts from 1 for each sum.

        Round 0 is what comes before training, one more than the study's rounds the evaluation.
        """

    def waiting(self, round_number: int, sites: Mapping[str, str], why: str) -> None:
        """The run cannot go on without more sites, and has begun to wait.

        Args:
            round_number: that cannot be finished.
            sites: site -> why it was not in the last attempt.
            why: the attempt failed, in one sentence.
        """

    def answered(self, round_number: int, site: str, failure: str) -> None:
        """A site answered in a round; `failure` is empty if all is well."""

    def closed(self, line: RosterLine, metrics_before: Metrics, seconds: float) -> None:
        """A round is over; the metrics describe the model that it started from.

        One that was given up has aggregated no site, and there are no metrics.
        """
