"""The server's secure sums over sites in memory, any of which a test silences or kills.

Every site is restored from what it has stored for each message, and every message goes through its
encoding. Whatever happens passes `tick`, which is where the server may be killed.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from flwr.app import RecordDict
from secure_cohort import Cohort

from wardround_server.exchange import Answer
from wardround_server.observer import Observer
from wardround_server.secure_sums import SecureSums
from wardround_shared.errors import PrivacyError
from wardround_shared.evaluation import counts_length
from wardround_shared.messages import (
    ADVERTISEMENT,
    ADVERTISEMENTS,
    CONFIRMATION,
    KEYS_REQUEST,
    MASK_REQUEST,
    MASKED_VECTOR,
    SEALED_SHARES,
    SURVIVORS,
    TRAIN,
    UNMASK_ANSWER,
    UNMASK_REQUEST,
    GlobalModel,
    Header,
    add_secure,
    model_record,
    read_header,
    read_model,
    read_secure,
    request_digest,
)
from wardround_shared.secure_aggregation import quantise
from wardround_shared.secure_aggregation.wire import (
    Advertisements,
    KeysRequest,
    MaskRequest,
    Survivors,
    UnmaskRequest,
    decode,
    encode,
)
from wardround_shared.study import load_study
from wardround_shared.vectors import sums_layout, sums_parts, update_layout, update_parts
from wardround_simulations.options import find_study

STUDY = load_study(
    find_study("heart-disease"),
    ["aggregation.secure=true", "aggregation.minimum-sites=3", "privacy.mechanism=none"],
)
COUNTS = counts_length(len(STUDY.study.classes))


class Killed(BaseException):
    """The server's process has ended."""


class Ticks:
    """Counts what happens, and kills the server at the chosen places."""

    def __init__(self, *kill_at: int):
        self.kill_at = set(kill_at)
        self.count = 0
        self.seen: list[str] = []

    def __call__(self, what: str) -> None:
        self.seen.append(what)
        self.count += 1
        if self.count in self.kill_at:
            raise Killed(what)


class Disk:
    """A `SumStore` whose content outlives the server."""

    def __init__(self, tick: Callable[[str], None] = lambda what: None):
        self.tick = tick
        self.data: bytes | None = None
        self.number = 1
        self.saves = 0

    def save(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        self.tick("before save")
        self.data = b"".join(parts)
        self.saves += 1
        self.tick("after save")

    def load(self) -> bytearray | None:
        return None if self.data is None else bytearray(self.data)

    def clear(self) -> None:
        self.tick("before clear")
        self.data = None
        self.tick("after clear")

    @property
    def next_round(self) -> int:
        return self.number

    def keep_next_round(self, number: int) -> None:
        self.tick("before number")
        self.number = number
        self.tick("after number")


class Heard(Observer):
    """An observer that remembers for whom it was told to wait."""

    def __init__(self):
        self.waited = []

    def waiting(self, round_number, sites, why):
        self.waited.append((round_number, dict(sites), why))


class Federation:
    """Sites, and the exchange over which a server reaches them.

    Attributes:
        asked: (site, type of message, parts) of every message that reached a site.
        silent: sites that get nothing, each with the parts for which that is so.
        refusing: sites that refuse, in the same form; `refused` counts how often they did.
        observer: of every server that is started.
        unmasked: for each site and question the different answers to requests to unmask.
        twist: changes what a site sends: (site, parts) -> parts.
    """

    def __init__(self, sites: int = 4, *, parameters: int = 40, tick=lambda what: None, seed=0):
        self.cohort = Cohort(sites, run="run", study=STUDY.study_id, seed=seed)
        self.names = dict(enumerate(self.cohort.names))
        self.parameters = parameters
        self.tick = tick
        self.asked: list[tuple[str, str, frozenset[str]]] = []
        self.silent: dict[str, set[str]] = {}
        self.refusing: dict[str, set[str]] = {}
        self.refused = 0
        self.observer = Heard()
        self.unmasked: dict[tuple[str, bytes], set[bytes]] = {}
        self.twist = lambda site, parts: parts

    def sums(self, store=None, **settings) -> SecureSums:
        """A server that has just started."""
        return SecureSums(
            study=STUDY,
            terms=self.cohort.terms,
            exchange=self,
            observer=self.observer,
            store=store,
            **settings,
        )

    def request(self, number: int) -> RecordDict:
        header = Header(study_id=STUDY.study_id, run="run", round=number)
        parameters = np.full(self.parameters, number, np.float32)
        return model_record(
            header, GlobalModel(parameters=parameters, fitted=(), class_counts=np.zeros(2))
        )

    def updates(self, sums: SecureSums, number: int, *, invited=None):
        return sums.updates(
            self.request(number),
            number,
            parameters=self.parameters,
            invited=self.names if invited is None else invited,
        )

    def expected(self, number: int, names: Iterable[str] | None = None) -> np.ndarray:
        """int32 [P], what the sites' updates of a round add up to, in steps."""
        total = np.zeros(self.parameters, np.uint32)
        for name in names or self.cohort.names:
            total += self._vector(name, TRAIN, number)[: self.parameters]
        return total.view(np.int32)

    # --- the exchange -------------------------------------------------------------------------

    def ask_each(self, requests, *, group, deadline) -> Iterator[Answer]:
        for node, (message_type, content) in requests.items():
            name, received = self.names[node], read_secure(content)
            if self.silent.get(name, set()) & received.keys():
                continue
            self.tick(f"before {message_type} at {name}")
            self.asked.append((name, message_type, frozenset(received)))
            answer = self._answer(node, name, message_type, content, received)
            self.tick(f"after {message_type} at {name}")
            yield answer
            del answer

    def _answer(self, node, name, message_type, content, received) -> Answer:
        if self.refusing.get(name, set()) & received.keys():
            self.refused += 1
            return Answer(node_id=node, content=None, failure="it has lost it")
        try:
            parts = self._parts(name, message_type, content, received)
        except PrivacyError as error:
            return Answer(node_id=node, content=None, failure=str(error))
        return Answer(node_id=node, content=add_secure(RecordDict(), self.twist(name, parts)))

    def _parts(self, name, message_type, content, received) -> dict[str, bytes]:
        site, parts = self.cohort.restored(name), {}
        if MASK_REQUEST in received:
            header = read_header(content)
            layout = self._layout(message_type)
            one_mask = site.mask(
                decode(received[MASK_REQUEST], MaskRequest),
                layout=layout,
                model_digest=request_digest(message_type, header, read_model(content)),
                question=_question(message_type, header.round),
            )
            vector = self._vector(name, message_type, header.round)
            parts[MASKED_VECTOR] = encode(one_mask.apply(vector))
        if SURVIVORS in received:
            parts[CONFIRMATION] = encode(site.sign(decode(received[SURVIVORS], Survivors)))
        if UNMASK_REQUEST in received:
            number = decode(received[UNMASK_REQUEST], UnmaskRequest).context.round
            question = getattr(site._stages.get(number), "question", None)
            answer = encode(site.unmask(decode(received[UNMASK_REQUEST], UnmaskRequest)))
            if question is not None:
                self.unmasked.setdefault((name, question), set()).add(answer)
            else:  # a repeat
                assert any(answer in given for given in self.unmasked.values())
            parts[UNMASK_ANSWER] = answer
        if KEYS_REQUEST in received:
            keys = site.advertise(decode(received[KEYS_REQUEST], KeysRequest))
            parts[ADVERTISEMENT] = encode(keys)
        if ADVERTISEMENTS in received:
            shares = site.share(decode(received[ADVERTISEMENTS], Advertisements))
            parts[SEALED_SHARES] = encode(shares)
        self.cohort.disk[name] = site.to_bytes()
        return parts

    def _layout(self, message_type: str):
        sites = len(self.cohort.roster)
        if message_type == TRAIN:
            return update_layout(STUDY, parameters=self.parameters, sites=sites)
        return sums_layout(STUDY, message_type, length=COUNTS, sites=sites)

    def _vector(self, name: str, message_type: str, number: int) -> np.ndarray:
        """The one quantised vector of a site for a question, always the same."""
        seed = hashlib.sha256(f"{name}/{message_type}/{number}".encode()).digest()
        random = np.random.default_rng(list(seed))
        counts = random.integers(0, 9, COUNTS).astype(float)
        if message_type == TRAIN:
            delta = random.uniform(-0.01, 0.01, self.parameters).astype(np.float32)
            parts = update_parts(STUDY, delta=delta, weight=5, counts=counts)
        else:
            parts = sums_parts(message_type, counts)
        layout = self._layout(message_type)
        words = np.empty(layout.words, np.uint32)
        quantise(parts, layout, lambda size: seed[:size], words)
        return words


def _question(message_type: str, number: int) -> bytes:
    return hashlib.sha256(f"{message_type}/{number}".encode()).digest()
