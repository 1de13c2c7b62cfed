"""Summing what the sites answer: in the clear, or securely. The coordinator sees sums only.

P = model parameters, L = metric counts.
"""

from collections.abc import Mapping
from typing import Protocol

from flwr.app import RecordDict

from wardround_server.aggregation import Sum
from wardround_server.rounds import Dropped, RosterLine
from wardround_shared.messages import Floats


class Summation(Protocol):
    """Sums over the sites of a run.

    Who is asked is said anew for each sum (`invited`): the nodes behind the sites may have changed,
    and sites may be away.
    """

    @property
    def roster_line(self) -> RosterLine | None:
        """Who took part in the last attempt of a round of training, finished or given up.

        `invited` there are those of that attempt. None before the first, and after one that was
        broken off by another error.
        """

    def updates(
        self, request: RecordDict, number: int, *, parameters: int, invited: Mapping[int, str]
    ) -> Sum:
        """Sum of the updates of training round `number`.

        A sum that was under way when this process's predecessor ended is finished, if the request
        is the same; its roster line then names those who were invited to it.

        Args:
            request: with the global model.
            number: of the round, from 1; the same again for another attempt.
            parameters: P.
            invited: node id -> site, who is asked; with secure aggregation members of the roster.

        Raises:
            LostRoundError: the question is spent and there is no sum; the next round can start.
            NotEnoughSitesError: too few sites answered, or answered rightly; nothing is revealed,
                and the same round can be tried again.
        """

    def sums(
        self,
        message_type: str,
        request: RecordDict,
        number: int,
        *,
        length: int,
        invited: Mapping[int, str],
    ) -> tuple[Floats, list[Dropped]]:
        """Sum (float64 [length]) of what the invited sites answer, and who of them is not in it.

        Raises:
            LostRoundError: the question is spent; there will be no such sum in this run.
            NotEnoughSitesError: as for `updates`.
        """

    def settled(self) -> None:
        """What the last sum led to is in a checkpoint; what was kept to finish it can go.

        Called after each sum whose result, or whose being lost, is stored. A call with nothing to
        forget does nothing.
        """
