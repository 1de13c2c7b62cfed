"""Secure sums over the sites of a run; what the server can read is the sum.

A sum is one attempt (`secure_attempt.py`) after the other, each with keys of its own, until one of
them is unmasked: sites unmask one attempt at a question. From the moment on at which they may, it
is in the store, and a server that was killed goes on with it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import RecordDict

from wardround_server.aggregation import Sum
from wardround_server.exchange import Exchange
from wardround_server.observer import Observer
from wardround_server.rounds import Dropped, RosterLine
from wardround_server.secure_attempt import Attempt
from wardround_server.sum_store import SumStore
from wardround_shared.errors import LostRoundError, NotEnoughSitesError, ProtocolError
from wardround_shared.messages import TRAIN, Floats, read_header, read_model, request_digest
from wardround_shared.secure_aggregation import VectorLayout, dequantise
from wardround_shared.secure_aggregation.faults import (
    QUESTION_SPENT,
    ContextError,
    RosterError,
    ShareError,
    ThresholdError,
)
from wardround_shared.secure_aggregation.roster import Terms
from wardround_shared.secure_aggregation.server import SecureServer, SecureSum
from wardround_shared.secure_aggregation.server_state import ConfirmedRound
from wardround_shared.secure_aggregation.wire import UnmaskRequest
from wardround_shared.steps import Steps
from wardround_shared.study import Study
from wardround_shared.vectors import sums_layout, sums_total, update_layout, update_sum


@dataclass(kw_only=True)
class _Asked:
    """Who was asked for a sum, and why those are not in it who are not; stored with the sum."""

    invited: tuple[str, ...]
    failures: dict[str, str]

    def to_bytes(self) -> bytes:
        return json.dumps([self.invited, self.failures]).encode()

    @classmethod
    def from_bytes(cls, note: bytes) -> "_Asked":
        invited, failures = json.loads(note)
        return cls(invited=tuple(invited), failures=failures)

    def dropped(self, sites: tuple[str, ...], otherwise: str) -> list[Dropped]:
        """All that are not among `sites`, in the order of invitation."""
        return [
            Dropped(site=site, why=self.failures.get(site, otherwise))
            for site in self.invited
            if site not in sites
        ]


class SecureSums:
    """`Summation` with secure aggregation: all secure sums of a run."""

    def __init__(
        self,
        *,
        study: Study,
        terms: Terms,
        exchange: Exchange,
        observer: Observer,
        store: SumStore | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare for sums over sites of the roster in `terms`.

        Args:
            study: with secure aggregation.
            terms: of the run.
            exchange: over which the sites are asked.
            observer: is told who has answered a request to train.
            store: what outlives this process. With one, unmasking waits for sites to come back;
                without, it is given up at the deadline.
            should_stop: looked at while it waits.
        """
        self._study = study
        self._roster = terms.roster
        first = 1 if store is None else store.next_round
        self._server = SecureServer(terms=terms, first_round=first)
        self._exchange = exchange
        self._observer = observer
        self._store = store
        self._should_stop = should_stop
        self.roster_line: RosterLine | None = None

    def updates(
        self, request: RecordDict, number: int, *, parameters: int, invited: Mapping[int, str]
    ) -> Sum:
        """See `Summation.updates`."""
        layout = update_layout(self._study, parameters=parameters, sites=len(self._roster))
        asked = _Asked(invited=tuple(invited.values()), failures={})
        self.roster_line = None
        try:
            sums, sites = self._sum(TRAIN, request, layout, invited, asked)
        except NotEnoughSitesError:
            self.roster_line = _line(number, (), asked)
            raise
        self.roster_line = _line(number, sites, asked)
        total = update_sum(sums)
        return Sum(
            delta=total.delta,
            weight=total.weight,
            counts=total.counts,
            sites=len(sites),
            clamped=total.clamped,
        )

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
        layout = sums_layout(self._study, message_type, length=length, sites=len(self._roster))
        asked = _Asked(invited=tuple(invited.values()), failures={})
        sums, survivors = self._sum(message_type, request, layout, invited, asked)
        return sums_total(message_type, sums), asked.dropped(survivors, "no answer in time")

    def settled(self) -> None:
        """See `Summation.settled`."""
        if self._store is not None:
            self._store.clear()

    def _sum(
        self,
        message_type: str,
        request: RecordDict,
        layout: VectorLayout,
        invited: Mapping[int, str],
        asked: _Asked,
    ) -> tuple[list[Steps], tuple[str, ...]]:
        """One secure sum: [V] for each segment, and the sites that are in it.

        Args:
            message_type: of the request.
            request: with the global model.
            layout: of the vectors.
            invited: node id -> site.
            asked: is told who was asked, and what became of them.

        Raises:
            LostRoundError: the question is spent: sites were asked to unmask, and too few did (if
                nothing is stored), they sent false shares, the total is one that honest sites
                cannot have made, or it was lost with the store. Nothing is revealed but, where it
                is such a total, that.
            NotEnoughSitesError: too few sites at any other step, and nothing is revealed.
        """
        digest = request_digest(message_type, read_header(request), read_model(request))
        attempt = self._attempt(request, invited)
        confirmed = self._stored(digest, layout, asked)
        if confirmed is None:
            asked.failures = attempt.failures
            confirmed = self._confirmed(attempt, message_type, request, layout, digest)
            self._keep(asked)
        result = self._unmasked(attempt, confirmed, asked)
        try:
            return dequantise(result.total, layout, result.sites), result.survivors
        except ProtocolError as error:
            raise LostRoundError(str(error)) from error

    def _attempt(self, request: RecordDict, invited: Mapping[int, str]) -> Attempt:
        return Attempt(
            server=self._server,
            exchange=self._exchange,
            invited=invited,
            header=read_header(request),
            deadline=self._study.aggregation.deadline,
            observer=self._observer,
            store=self._store,
        )

    def _confirmed(
        self,
        attempt: Attempt,
        message_type: str,
        request: RecordDict,
        layout: VectorLayout,
        digest: bytes,
    ) -> UnmaskRequest:
        """An attempt up to where it may be unmasked; before that nothing is revealed.

        Raises:
            LostRoundError: so many sites have unmasked another sum for the question, one that is
                not stored here any more, that there will be none.
            NotEnoughSitesError: for another reason.
        """
        try:
            attempt.set_up()
            masks = self._server.open_round(layout=layout, model_digest=digest)
            attempt.collect(message_type, request, masks)
            return attempt.confirm()
        except ThresholdError as error:
            spent = sum(QUESTION_SPENT in why for why in attempt.failures.values())
            lost = len(self._roster) - spent < self._roster.threshold
            kind = LostRoundError if lost else NotEnoughSitesError
            raise kind(_with_reasons(error, attempt.failures)) from error

    def _unmasked(self, attempt: Attempt, confirmed: UnmaskRequest, asked: _Asked) -> SecureSum:
        try:
            if self._store is None:
                return attempt.unmask_once(confirmed)
            return attempt.unmask(confirmed, self._should_stop)
        except (ThresholdError, ShareError) as error:
            raise LostRoundError(_with_reasons(error, asked.failures)) from error
        finally:
            self._server.give_up()  # with its total, where it is stored and goes on later

    # --- what is stored ----------------------------------------------------------------------

    def _keep(self, asked: _Asked) -> None:
        """Store the sum, before any site is asked to unmask it."""
        if self._store is not None:
            self._store.save(self._server.confirmed_round(note=asked.to_bytes()).parts())

    def _stored(self, digest: bytes, layout: VectorLayout, asked: _Asked) -> UnmaskRequest | None:
        """Take up the sum that is stored for this very request, if there is one.

        One for another request is over: the coordinator has gone past it.
        """
        data = None if self._store is None else self._store.load()
        if self._store is None or data is None:
            return None
        stored = ConfirmedRound.from_buffer(data)
        del data
        try:
            confirmed = self._server.take_up(stored, layout=layout, model_digest=digest)
        except (ContextError, RosterError):
            self._store.clear()
            return None
        before = _Asked.from_bytes(stored.note)
        asked.invited, asked.failures = before.invited, before.failures
        return confirmed


def _line(number: int, sites: tuple[str, ...], asked: _Asked) -> RosterLine:
    return RosterLine(
        round=number,
        invited=asked.invited,
        trained=sites,
        aggregated=sites,
        dropped=tuple(asked.dropped(sites, "the round was given up")),
    )


def _with_reasons(error: Exception, failures: Mapping[str, str]) -> str:
    """What went wrong, and why sites are missing."""
    why = "; ".join(f"{site}: {reason}" for site, reason in failures.items())
    return f"{error} {why}".rstrip()
