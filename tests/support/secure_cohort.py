"""A whole cohort in memory: every message goes through its encoding, every state through the disk.

Silence is named by exchange: a site that is silent in one gets nothing and sends nothing.
"""

import contextlib
import hashlib
import random
from collections.abc import Collection, Mapping

import numpy as np

from wardround_shared.secure_aggregation.faults import ThresholdError
from wardround_shared.secure_aggregation.keys import Identity
from wardround_shared.secure_aggregation.one_shots import OneShotsInMemory
from wardround_shared.secure_aggregation.quantisation import Segment, VectorLayout
from wardround_shared.secure_aggregation.roster import Roster, Terms
from wardround_shared.secure_aggregation.server import SecureServer, SecureSum
from wardround_shared.secure_aggregation.site import SecureSite
from wardround_shared.secure_aggregation.wire import decode, encode

MODEL = hashlib.sha256(b"model").digest()


def names(sites: int) -> tuple[str, ...]:
    return tuple(f"hospital-{number:02}" for number in range(sites))


def question_of(number: int) -> bytes:
    return hashlib.sha256(f"question {number}".encode()).digest()


def wired(message):
    return decode(encode(message), type(message))


class Cohort:
    """`sites` sites and their server; `self.roster` is the one that all have approved."""

    def __init__(self, sites=4, *, length=5, ring_bits=32, seed=0, run="run-1", study="study"):
        self.random = random.Random(seed).randbytes
        self.names = names(sites)
        self.identities = {name: Identity(self.random(32)) for name in self.names}
        self.roster = Roster.of({name: key.public for name, key in self.identities.items()})
        self.terms = Terms(study_id=study, run=run, roster=self.roster)
        self.layout = VectorLayout(
            segments=(Segment(name="delta", length=length, bound=1.0),),
            sites=sites,
            ring_bits=ring_bits,
        )
        self.one_shots = {name: OneShotsInMemory() for name in self.names}
        self.disk: dict[str, bytes] = {}
        self.server = SecureServer(terms=self.terms)
        for name in self.names:
            self.disk[name] = SecureSite(**self.settings(name)).to_bytes()

    def settings(self, name):
        return {
            "terms": self.terms,
            "site": name,
            "identity": self.identities[name],
            "random": self.random,
            "one_shots": self.one_shots[name],
        }

    def restored(self, name: str, state: bytes | None = None) -> SecureSite:
        data = self.disk[name] if state is None else state
        return SecureSite.from_bytes(data, **self.settings(name))

    def ask(self, name: str, method: str, request, **arguments):
        """One message to one site as the app does it: restore, answer, store, send."""
        site = self.restored(name)
        answer = getattr(site, method)(wired(request), **arguments)
        self.disk[name] = site.to_bytes()
        return wired(answer)

    def ask_mask(self, name: str, request, vector=None, question: bytes | None = None):
        """As `ask`; every round asks another question unless a test says otherwise."""
        site = self.restored(name)
        one_mask = self.accept(site, wired(request), question)
        own = self.vectors()[name] if vector is None else vector
        answer = one_mask.apply(np.array(own, dtype=np.uint32))
        self.disk[name] = site.to_bytes()
        return wired(answer)

    def accept(self, site: SecureSite, request, question: bytes | None = None, model=MODEL):
        return site.mask(
            request,
            layout=self.layout,
            model_digest=model,
            question=question or question_of(request.context.round),
        )

    def vectors(self) -> dict[str, np.ndarray]:
        """Any vector will do: quantisation leaves every word possible."""
        return {
            name: np.frombuffer(self.random(4 * self.layout.words), np.uint32)
            for name in self.names
        }

    # --- the steps of a round, for all sites that are not silent ------------------------------

    def advertise(self, silent: Collection[str] = ()) -> None:
        request = self.server.open_setup()
        for name in self.names:
            if name not in silent:
                self.server.take_keys(name, self.ask(name, "advertise", request))

    def share(self, silent: Collection[str] = ()) -> None:
        message = self.server.close_keys()
        for name in self.server.advertised:
            if name not in silent:
                self.server.take_shares(name, self.ask(name, "share", message))

    def open_round(self):
        return self.server.open_round(layout=self.layout, model_digest=MODEL)

    def mask(
        self,
        vectors: Mapping[str, np.ndarray],
        silent: Collection[str] = (),
        question: bytes | None = None,
    ) -> None:
        for name, request in self.open_round().items():
            if name not in silent:
                answer = self.ask_mask(name, request, vectors[name], question)
                self.server.take_vector(name, answer)

    def sign(self, silent: Collection[str] = ()) -> None:
        message = self.server.close_vectors()
        for name in self.server.survivors:
            if name not in silent:
                self.server.take_confirmation(name, self.ask(name, "sign", message))

    def unmask(self, silent: Collection[str] = ()) -> None:
        request = self.server.close_confirmations()
        for name in self.server.confirmed:
            if name not in silent:
                self.server.take_answer(name, self.ask(name, "unmask", request))

    # --- whole rounds -------------------------------------------------------------------------

    def bootstrap(self, silent1: Collection[str] = (), silent2: Collection[str] = ()) -> None:
        self.advertise(silent1)
        self.share(silent2)

    def round(
        self,
        vectors: Mapping[str, np.ndarray],
        silent1: Collection[str] = (),
        silent2: Collection[str] = (),
        silent3: Collection[str] = (),
    ) -> SecureSum:
        """Three exchanges, with keys and shares of the next round on them."""
        self.mask(vectors, silent1)
        self.advertise(silent1)
        self.sign(silent2)
        with contextlib.suppress(ThresholdError):  # the next round is set up by itself then
            self.share(silent2)
        self.unmask(silent3)
        return self.server.close_round()


def ring_sum(vectors: Collection[np.ndarray], layout: VectorLayout) -> np.ndarray:
    """The plain sum in the ring, written without the code under test."""
    total = np.zeros(layout.words, dtype=np.uint32)
    wide = total[: layout.wide]
    narrow = total[layout.wide :].view(np.uint16)
    for vector in vectors:
        wide += vector[: layout.wide]
        narrow += vector[layout.wide :].view(np.uint16)
    return total
