"""Who watches a run."""

from collections.abc import Sequence
from typing import Any, Protocol

from wardround_server.rounds import Dropped, RosterLine

Metrics = dict[str, Any]


class Observer(Protocol):
    """Who watches a run: a progress bar, plain lines, or a daemon's status."""

    def joined(self, sites: Sequence[str], absent: Sequence[Dropped]) -> None:
        """The sites that answered the first message, and those that did not."""

    def answered(self, round_number: int, site: str, failure: str) -> None:
        """A site answered in a round; `failure` is empty if all is well."""

    def closed(self, line: RosterLine, metrics_before: Metrics, seconds: float) -> None:
        """A round is over; the metrics describe the model that it started from.

        One that was given up has aggregated no site, and there are no metrics.
        """
