"""Sums in the clear: the server sees each site's vector, and adds it up at once."""

from collections.abc import Iterator, Mapping

import numpy as np
from flwr.app import RecordDict

from wardround_server.aggregation import RunningSum, Sum
from wardround_server.exchange import Answer, Exchange
from wardround_server.observer import Observer
from wardround_server.rounds import Dropped, RosterLine, Round
from wardround_shared.errors import NotEnoughSitesError, ProtocolError
from wardround_shared.messages import TRAIN, Floats, read_sums, read_update
from wardround_shared.study import Study
from wardround_shared.tasks import task_of


class PlainSums:
    """`Summation` without secure aggregation."""

    def __init__(self, *, study: Study, exchange: Exchange, observer: Observer) -> None:
        self._study = study
        self._exchange = exchange
        self._observer = observer
        self._minimum = study.aggregation.minimum_sites
        self.roster_line: RosterLine | None = None

    def updates(
        self, request: RecordDict, number: int, *, parameters: int, invited: Mapping[int, str]
    ) -> Sum:
        """See `Summation.updates`."""
        self.roster_line = None
        sites = tuple(invited.values())
        current = Round(
            number=number,
            invited=sites,
            minimum_sites=self._minimum,
            running_sum=RunningSum(
                parameters=parameters,
                counts=task_of(self._study).counts_length,
                sites=len(sites),
            ),
        )
        for site, answer in self._answers(TRAIN, request, number, invited):
            self._observer.answered(number, site, _take(current, site, answer))
        try:
            return current.close()
        finally:
            self.roster_line = current.roster_line()

    def sums(
        self,
        message_type: str,
        request: RecordDict,
        number: int,
        *,
        length: int,
        invited: Mapping[int, str],
    ) -> tuple[Floats, list[Dropped]]:
        """See `Summation.sums`."""
        failures = dict.fromkeys(invited.values(), "no answer in time")
        sums: dict[str, Floats] = {}
        for site, answer in self._answers(message_type, request, number, invited):
            try:
                sums[site] = _values(answer, length)
                failures.pop(site)
            except ProtocolError as error:
                failures[site] = str(error)
        if len(sums) < self._minimum:
            why = "; ".join(f"{site}: {reason}" for site, reason in failures.items())
            raise NotEnoughSitesError(
                f"{len(sums)} of {len(invited)} sites answered {message_type}, the study needs "
                f"{self._minimum} (aggregation.minimum-sites). {why}"
            )
        # A fixed order: floating-point sums depend on it.
        total = np.sum([sums[site] for site in sorted(sums)], axis=0)
        return total, [Dropped(site=site, why=why) for site, why in failures.items()]

    def settled(self) -> None:
        """See `Summation.settled`. Nothing is kept: what is asked again is summed anew."""

    def _answers(
        self, message_type: str, request: RecordDict, number: int, invited: Mapping[int, str]
    ) -> Iterator[tuple[str, Answer]]:
        deadline = self._study.aggregation.deadline
        for answer in self._exchange.ask(
            tuple(invited), message_type, request, group=str(number), deadline=deadline
        ):
            yield invited[answer.node_id], answer


def _take(current: Round, site: str, answer: Answer) -> str:
    """Add an answer to the round; returns why not, or nothing."""
    if answer.content is None:
        current.drop(site, answer.failure)
        return answer.failure
    try:
        update = read_update(answer.content)
    except ProtocolError as error:
        current.drop(site, str(error))
        return str(error)
    return current.add(site, update)


def _values(answer: Answer, length: int) -> Floats:
    if answer.content is None:
        raise ProtocolError(answer.failure)
    values = read_sums(answer.content)
    if values.shape != (length,):
        raise ProtocolError(f"{values.size} sums instead of {length}")
    return values
