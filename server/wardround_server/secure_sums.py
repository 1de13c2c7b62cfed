"""Secure sums over the sites of a run: the protocol's server, driven over exchanges.

A sum takes three exchanges (docs/protocol.md): the request with everybody's shares, the survivors,
the unmasking. Keys and shares of the next sum ride on the first two. The server never holds two
vectors, and what it can read is the sum.
"""

from collections.abc import Iterator, Mapping

from flwr.app import RecordDict

from wardround_server.aggregation import Sum
from wardround_server.exchange import Answer, Exchange
from wardround_server.observer import Observer
from wardround_server.rounds import Dropped, RosterLine
from wardround_shared.errors import NotEnoughSitesError, ProtocolError
from wardround_shared.messages import (
    ADVERTISEMENT,
    ADVERTISEMENTS,
    CONFIRM,
    CONFIRMATION,
    KEYS,
    KEYS_REQUEST,
    MASK_REQUEST,
    MASKED_VECTOR,
    SEALED_SHARES,
    SURVIVORS,
    TRAIN,
    UNMASK,
    UNMASK_ANSWER,
    UNMASK_REQUEST,
    Floats,
    Header,
    add_secure,
    header_record,
    read_header,
    read_model,
    read_secure,
    request_digest,
)
from wardround_shared.secure_aggregation import VectorLayout, dequantise
from wardround_shared.secure_aggregation.faults import (
    SecureAggregationError,
    ShareError,
    ThresholdError,
)
from wardround_shared.secure_aggregation.roster import Terms
from wardround_shared.secure_aggregation.server import SecureServer, SecureSum
from wardround_shared.secure_aggregation.wire import (
    Advertisement,
    Confirmation,
    MaskedVector,
    SealedShares,
    UnmaskAnswer,
    decode,
    encode,
)
from wardround_shared.study import Study
from wardround_shared.vectors import sums_layout, sums_total, update_layout, update_sum

Parts = Mapping[str, bytes]


class SecureSums:
    """`Summation` with secure aggregation: all secure sums of a run."""

    def __init__(
        self,
        *,
        study: Study,
        terms: Terms,
        exchange: Exchange,
        names: Mapping[int, str],
        observer: Observer,
    ) -> None:
        """Prepare for the sites `names` (node id -> site) of the roster in `terms`."""
        self._study = study
        self._roster = terms.roster
        self._server = SecureServer(terms=terms)
        self._exchange = exchange
        self._names = names
        self._nodes = {site: node for node, site in names.items()}
        self._observer = observer
        self.roster_line: RosterLine | None = None

    def updates(self, request: RecordDict, number: int, *, parameters: int) -> Sum:
        """See `Summation.updates`."""
        layout = update_layout(self._study, parameters=parameters, sites=len(self._roster))
        failures = self._failures()
        self.roster_line = None
        try:
            sums, sites = self._sum(TRAIN, request, layout, failures)
        except NotEnoughSitesError:
            self.roster_line = self._line(number, (), failures)
            raise
        self.roster_line = self._line(number, sites, failures)
        total = update_sum(sums)
        return Sum(
            delta=total.delta,
            weight=total.weight,
            counts=total.counts,
            sites=len(sites),
            clamped=total.clamped,
        )

    def sums(
        self, message_type: str, request: RecordDict, number: int, *, length: int
    ) -> tuple[Floats, list[Dropped]]:
        """See `Summation.sums`."""
        sites = len(self._roster)
        layout = sums_layout(self._study, message_type, length=length, sites=sites)
        failures = self._failures()
        sums, survivors = self._sum(message_type, request, layout, failures)
        dropped = [Dropped(site=s, why=w) for s, w in failures.items() if s not in survivors]
        return sums_total(message_type, sums), dropped

    def _failures(self) -> dict[str, str]:
        return dict.fromkeys(self._names.values(), "no answer in time")

    def _line(self, number: int, sites: tuple[str, ...], failures: Mapping[str, str]) -> RosterLine:
        invited = tuple(self._names.values())
        return RosterLine(
            round=number,
            invited=invited,
            trained=sites,
            aggregated=sites,
            dropped=tuple(
                Dropped(site=site, why=failures.get(site, "the round was given up"))
                for site in invited
                if site not in sites
            ),
        )

    def _sum(
        self,
        message_type: str,
        request: RecordDict,
        layout: VectorLayout,
        failures: dict[str, str],
    ) -> tuple[list[Floats], tuple[str, ...]]:
        """One secure sum: float64 [V] for each segment, and the sites that are in it.

        Raises:
            NotEnoughSitesError: the sum is given up: too few sites at some step, false shares, or
                a total that honest sites cannot have made. Nothing is revealed but, in the last
                case, that total.
        """
        header = read_header(request)
        try:
            if not self._server.ready:
                self._set_up(header, failures)
            self._collect_vectors(message_type, header, request, layout, failures)
            self._confirm(header)
            result = self._unmask(header)
        except (ThresholdError, ShareError) as error:
            why = "; ".join(f"{site}: {reason}" for site, reason in failures.items())
            raise NotEnoughSitesError(f"{error} {why}".rstrip()) from error
        try:
            return dequantise(result.total, layout, result.sites), result.survivors
        except ProtocolError as error:
            raise NotEnoughSitesError(str(error)) from error

    # --- the exchanges -----------------------------------------------------------------------

    def _set_up(self, header: Header, failures: dict[str, str]) -> None:
        """Keys and shares for the first sum, or after one that was given up."""
        asked = encode(self._server.open_setup())
        everyone = {site: {KEYS_REQUEST: asked} for site in self._nodes}
        for site, parts in self._ask(KEYS, header, everyone, failures):
            self._take_setup(site, parts, failures)
        advertised = encode(self._server.close_keys())
        chosen = {site: {ADVERTISEMENTS: advertised} for site in self._server.advertised}
        for site, parts in self._ask(KEYS, header, chosen, failures):
            self._take_setup(site, parts, failures)

    def _collect_vectors(
        self,
        message_type: str,
        header: Header,
        request: RecordDict,
        layout: VectorLayout,
        failures: dict[str, str],
    ) -> None:
        """Exchange 1: the request and the shares; keys for the next sum come along."""
        digest = request_digest(message_type, header, read_model(request))
        masks = self._server.open_round(layout=layout, model_digest=digest)
        keys = encode(self._server.open_setup())
        requests: dict[int, tuple[str, RecordDict]] = {}
        for site, node in self._nodes.items():
            if site in masks:
                sent = {MASK_REQUEST: encode(masks[site]), KEYS_REQUEST: keys}
                requests[node] = (message_type, add_secure(request, sent))
            else:
                # Without keys that the others know: it gets the half for the next sum only.
                absent = add_secure(header_record(header), {KEYS_REQUEST: keys})
                requests[node] = (KEYS, absent)
                failures[site] = "missed the exchange of keys; takes part in the next round"
        for site, parts in self._answers(requests, header, failures):
            if MASKED_VECTOR in parts:
                self._take_vector(site, parts[MASKED_VECTOR], failures)
            self._take_setup(site, parts, {})
            if message_type == TRAIN:
                self._observer.answered(header.round, site, failures.get(site, ""))

    def _confirm(self, header: Header) -> None:
        """Exchange 2: the survivors; shares for the next sum come along."""
        survivors = encode(self._server.close_vectors())
        parts: dict[str, dict[str, bytes]] = {
            site: {SURVIVORS: survivors} for site in self._server.survivors
        }
        try:
            advertised = encode(self._server.close_keys())
            for site in self._server.advertised:
                parts.setdefault(site, {})[ADVERTISEMENTS] = advertised
        except ThresholdError:
            pass  # the next sum sets its keys up anew
        for site, answered in self._ask(CONFIRM, header, parts, {}):
            if CONFIRMATION in answered:
                try:
                    confirmation = decode(answered[CONFIRMATION], Confirmation)
                    self._server.take_confirmation(site, confirmation)
                except SecureAggregationError:
                    continue
            self._take_setup(site, answered, {})

    def _unmask(self, header: Header) -> SecureSum:
        """Exchange 3: shares of the secrets that are to be removed."""
        asked = encode(self._server.close_confirmations())
        confirmed = {site: {UNMASK_REQUEST: asked} for site in self._server.confirmed}
        for site, parts in self._ask(UNMASK, header, confirmed, {}):
            if UNMASK_ANSWER in parts:
                try:
                    self._server.take_answer(site, decode(parts[UNMASK_ANSWER], UnmaskAnswer))
                except SecureAggregationError:
                    continue
        return self._server.close_round()

    # --- their parts -------------------------------------------------------------------------

    def _ask(
        self,
        message_type: str,
        header: Header,
        parts: Mapping[str, Parts],
        failures: dict[str, str],
    ) -> Iterator[tuple[str, Parts]]:
        base = header_record(header)
        requests = {
            self._nodes[site]: (message_type, add_secure(base, sent))
            for site, sent in parts.items()
            if site in self._nodes
        }
        return self._answers(requests, header, failures)

    def _answers(
        self,
        requests: Mapping[int, tuple[str, RecordDict]],
        header: Header,
        failures: dict[str, str],
    ) -> Iterator[tuple[str, Parts]]:
        answers = self._exchange.ask_each(
            requests, group=str(header.round), deadline=self._study.aggregation.deadline
        )
        for answer in answers:
            site = self._names[answer.node_id]
            parts, failure = _parts(answer)
            if failure:
                failures[site] = failure
            yield site, parts

    def _take_vector(self, site: str, encoded: bytes, failures: dict[str, str]) -> None:
        try:
            self._server.take_vector(site, decode(encoded, MaskedVector))
        except SecureAggregationError as error:
            failures[site] = str(error)
        else:
            failures.pop(site, None)

    def _take_setup(self, site: str, parts: Parts, failures: dict[str, str]) -> None:
        try:
            if ADVERTISEMENT in parts:
                self._server.take_keys(site, decode(parts[ADVERTISEMENT], Advertisement))
            if SEALED_SHARES in parts:
                self._server.take_shares(site, decode(parts[SEALED_SHARES], SealedShares))
        except SecureAggregationError as error:
            failures[site] = str(error)


def _parts(answer: Answer) -> tuple[Parts, str]:
    """The parts of an answer, or why there are none."""
    if answer.content is None:
        return {}, answer.failure
    try:
        return read_secure(answer.content), ""
    except ProtocolError as error:
        return {}, str(error)
