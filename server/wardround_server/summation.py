"""Summing what the sites answer: in the clear, or securely. The coordinator sees sums only.

P = model parameters, L = metric counts.
"""

from typing import Protocol

from flwr.app import RecordDict

from wardround_server.aggregation import Sum
from wardround_server.rounds import Dropped, RosterLine
from wardround_shared.messages import Floats


class Summation(Protocol):
    """Sums over the sites of a run."""

    @property
    def roster_line(self) -> RosterLine | None:
        """Who took part in the last round of training, finished or given up.

        None before the first, and after one that was broken off by another error.
        """

    def updates(self, request: RecordDict, number: int, *, parameters: int) -> Sum:
        """Sum of the updates of training round `number`.

        Args:
            request: with the global model.
            number: of the round, from 1.
            parameters: P.

        Raises:
            NotEnoughSitesError: the round is given up, for want of sites that answered or that
                answered rightly; the next one can start.
        """

    def sums(
        self, message_type: str, request: RecordDict, number: int, *, length: int
    ) -> tuple[Floats, list[Dropped]]:
        """Sum (float64 [length]) of what the sites answer to a request, and who is not in it.

        Raises:
            NotEnoughSitesError: given up likewise. With secure aggregation sites that have
                answered do so once, so that asking again is of no use.
        """
