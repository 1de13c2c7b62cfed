"""One attempt at a secure sum: the protocol's server driven over exchanges (docs/protocol.md).

Three exchanges: the request with everybody's shares, the survivors, the unmasking. Keys and shares
of the next sum ride on the first two. One vector at most is held beside the running sum.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress

from flwr.app import ArrayRecord, RecordDict

from wardround_server.exchange import Answer, Exchange
from wardround_server.observer import Observer
from wardround_server.rounds import KEYS_MISSED
from wardround_server.sum_store import SumStore
from wardround_shared.arrays import from_message
from wardround_shared.errors import LostRoundError, NotEnoughSitesError, ProtocolError
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
    Header,
    add_secure,
    header_record,
)
from wardround_shared.secure_aggregation.faults import SecureAggregationError, ThresholdError
from wardround_shared.secure_aggregation.server import SecureServer, SecureSum
from wardround_shared.secure_aggregation.wire import (
    Advertisement,
    Confirmation,
    KeysRequest,
    MaskedVector,
    MaskRequest,
    SealedShares,
    UnmaskAnswer,
    UnmaskRequest,
    decode,
    encode,
)

MOST_REFUSALS = 20
"""A site that refuses so often to unmask what it has confirmed will not do it any more: it has
lost what it needs for it. A site that is silent may come back, and is waited for."""

PAUSE_SECONDS = 1.0
"""Between two requests to unmask of which the first brought nothing."""

Received = Mapping[str, memoryview]
Take = Callable[[str, Received], None]


class Attempt:
    """Asks the invited sites for one sum."""

    def __init__(
        self,
        *,
        server: SecureServer,
        exchange: Exchange,
        invited: Mapping[int, str],
        header: Header,
        deadline: float,
        observer: Observer,
        store: SumStore | None,
    ) -> None:
        """An attempt of the run's `server`.

        Args:
            server: of the whole run; keys for the next sum stay in it.
            exchange: over which the sites are asked.
            invited: node id -> site, all in the roster.
            header: of the request.
            deadline: seconds for each exchange.
            observer: is told who has answered a request to train.
            store: keeps the number of the next round before keys are asked for.
        """
        self._server = server
        self._exchange = exchange
        self._names = invited
        self._nodes = {site: node for node, site in invited.items()}
        self._header = header
        self._deadline = deadline
        self._observer = observer
        self._store = store
        self.failures = dict.fromkeys(invited.values(), "no answer in time")

    def set_up(self) -> None:
        """Keys and shares, unless enough of the invited have them from the last sum.

        Raises:
            ThresholdError: too few sites have sent keys.
        """
        if sum(site in self._nodes for site in self._server.prepared) >= self._server.threshold:
            return

        def take(site: str, parts: Received) -> None:
            self._take_setup(site, parts, self.failures)

        asked = encode(self._open_setup())
        self._ask(KEYS, {site: {KEYS_REQUEST: asked} for site in self._nodes}, take, self.failures)
        advertised = encode(self._server.close_keys())
        chosen = {site: {ADVERTISEMENTS: advertised} for site in self._server.advertised}
        self._ask(KEYS, chosen, take, self.failures)

    def collect(
        self, message_type: str, request: RecordDict, masks: Mapping[str, MaskRequest]
    ) -> None:
        """Exchange 1: the request and the shares; keys for the next sum come along."""
        keys = encode(self._open_setup())
        requests: dict[int, tuple[str, RecordDict]] = {}
        for site, node in self._nodes.items():
            if site in masks:
                sent = {MASK_REQUEST: encode(masks[site]), KEYS_REQUEST: keys}
                requests[node] = (message_type, add_secure(request, sent))
            else:
                # Without keys that the others know: it gets the half for the next sum only.
                absent = add_secure(header_record(self._header), {KEYS_REQUEST: keys})
                requests[node] = (KEYS, absent)

        def take(site: str, parts: Received) -> None:
            if site not in masks and ADVERTISEMENT in parts:
                self.failures[site] = KEYS_MISSED
            if MASKED_VECTOR in parts:
                self._take_vector(site, parts[MASKED_VECTOR])
            self._take_setup(site, parts, {})
            if message_type == TRAIN:
                failure = self.failures.get(site, "")
                self._observer.answered(self._header.round, site, failure)

        self._answers(requests, take, self.failures)

    def confirm(self) -> UnmaskRequest:
        """Exchange 2: the survivors; shares for the next sum come along.

        Raises:
            ThresholdError: too few vectors, or too few confirmations.
        """
        survivors = encode(self._server.close_vectors())
        parts = {site: {SURVIVORS: survivors} for site in self._server.survivors}
        with suppress(ThresholdError):  # the next sum sets its keys up anew then
            advertised = encode(self._server.close_keys())
            for site in self._server.advertised:
                parts.setdefault(site, {})[ADVERTISEMENTS] = advertised

        def take(site: str, parts: Received) -> None:
            if CONFIRMATION in parts:
                try:
                    confirmation = decode(parts[CONFIRMATION], Confirmation)
                    self._server.take_confirmation(site, confirmation)
                except SecureAggregationError:
                    return
            self._take_setup(site, parts, {})

        self._ask(CONFIRM, parts, take, {})
        return self._server.close_confirmations()

    def unmask_once(self, request: UnmaskRequest) -> SecureSum:
        """Exchange 3: shares of the secrets that are to be removed, up to the deadline.

        Raises:
            ThresholdError: too few have answered.
            ShareError: false shares, and too few answers without them.
        """
        self._ask_to_unmask(encode(request))
        return self._server.close_round()

    def unmask(self, request: UnmaskRequest, should_stop: Callable[[], bool]) -> SecureSum:
        """Exchange 3 of a sum that is stored: asks those who are silent until enough answer.

        Raises:
            NotEnoughSitesError: it was told to stop, or sites that have confirmed and may be back
                by now are not among the invited; the same request goes on from what is stored.
            LostRoundError: too many sites refuse for good.
            ShareError: false shares, and too few answers without them.
        """
        encoded = encode(request)
        refusals: Counter[str] = Counter()
        while True:
            before = len(self._server.unmasked)
            refused = self._ask_to_unmask(encoded)
            answered = len(self._server.unmasked)
            if answered >= self._server.threshold:
                return self._server.close_round()
            refusals.update(refused.keys())
            for_good = [site for site, times in refusals.items() if times >= MOST_REFUSALS]
            if len(self._server.confirmed) - len(for_good) < self._server.threshold:
                why = "; ".join(f"{site}: {refused.get(site, 'refused')}" for site in for_good)
                raise LostRoundError(
                    f"Too many sites refuse to unmask a sum that they have confirmed. {why}"
                )
            if answered == before:
                self._observer.waiting(
                    self._header.round,
                    {
                        site: refused.get(site, "it has confirmed the sum and not unmasked it")
                        for site in self._server.confirmed
                        if site not in self._server.unmasked
                    },
                    f"{answered} of {self._server.threshold} sites have unmasked the sum.",
                )
            away = [site for site in self._server.confirmed if site not in self._nodes]
            if should_stop() or (away and answered == before):
                raise NotEnoughSitesError(
                    f"{answered} sites have unmasked the sum, {self._server.threshold} are needed; "
                    "it is stored, and goes on when sites that have confirmed it are back."
                )
            if answered == before:
                time.sleep(PAUSE_SECONDS)

    # --- their parts -------------------------------------------------------------------------

    def _open_setup(self) -> KeysRequest:
        """Begin the setup of the next sum; its number is kept before a site can see it."""
        request = self._server.open_setup()
        if self._store is not None:
            self._store.keep_next_round(self._server.next_round)
        return request

    def _ask_to_unmask(self, request: bytes) -> dict[str, str]:
        """Ask all who have confirmed and not answered yet; who has refused, and why."""

        def take(site: str, parts: Received) -> None:
            if UNMASK_ANSWER in parts:
                with suppress(SecureAggregationError):
                    self._server.take_answer(site, decode(parts[UNMASK_ANSWER], UnmaskAnswer))

        silent = set(self._server.confirmed) - set(self._server.unmasked)
        asked = {site: {UNMASK_REQUEST: request} for site in self._nodes if site in silent}
        failures: dict[str, str] = {}
        self._ask(UNMASK, asked, take, failures)
        return failures

    def _ask(
        self,
        message_type: str,
        parts: Mapping[str, Mapping[str, bytes]],
        take: Take,
        failures: dict[str, str],
    ) -> None:
        """Send each site its parts beside the header, and take what it answers."""
        base = header_record(self._header)
        requests = {
            self._nodes[site]: (message_type, add_secure(base, sent))
            for site, sent in parts.items()
            if site in self._nodes
        }
        self._answers(requests, take, failures)

    def _answers(
        self,
        requests: Mapping[int, tuple[str, RecordDict]],
        take: Take,
        failures: dict[str, str],
    ) -> None:
        for answer in self._exchange.ask_each(
            requests, group=str(self._header.round), deadline=self._deadline
        ):
            self._take(answer, take, failures)
            del answer  # before the next one is there: a vector is as large as the model

    def _take(self, answer: Answer, take: Take, failures: dict[str, str]) -> None:
        site = self._names[answer.node_id]
        parts, failure = _received(answer)
        if failure:
            failures[site] = failure
        take(site, parts)

    def _take_vector(self, site: str, encoded: memoryview) -> None:
        try:
            self._server.take_vector(site, decode(encoded, MaskedVector))
        except SecureAggregationError as error:
            self.failures[site] = str(error)
        else:
            self.failures.pop(site, None)

    def _take_setup(self, site: str, parts: Received, failures: dict[str, str]) -> None:
        try:
            if ADVERTISEMENT in parts:
                self._server.take_keys(site, decode(parts[ADVERTISEMENT], Advertisement))
            if SEALED_SHARES in parts:
                self._server.take_shares(site, decode(parts[SEALED_SHARES], SealedShares))
        except SecureAggregationError as error:
            failures[site] = str(error)


def _received(answer: Answer) -> tuple[Received, str]:
    """The protocol's messages in an answer, not copied; or why there are none."""
    if answer.content is None:
        return {}, answer.failure
    record = answer.content.get("secure", ArrayRecord())
    if not isinstance(record, ArrayRecord):
        return {}, "A message is malformed: it has no arrays of secure aggregation."
    try:
        arrays = {name: from_message(array) for name, array in record.items()}
    except ProtocolError as error:
        return {}, str(error)
    if any(array.dtype != "u1" or array.ndim != 1 for array in arrays.values()):
        return {}, "A message is malformed: secure aggregation sends bytes only."
    return {name: array.data for name, array in arrays.items()}, ""
