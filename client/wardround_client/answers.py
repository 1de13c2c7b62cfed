"""What a site remembers of its answers in one run: the same question is never worked on twice.

A server that crashed, or that lost an answer on its way, asks again. The site then gives the very
answer that it has given before, and trains and pays nothing. Forms: `AnsweredOnce` for simulations,
whose server does not ask twice, and `AnswerFiles` (`answer_files.py`) for daemons.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import ProtocolError
from wardround_shared.messages import TRAIN

Formed = Mapping[str, NDArray[np.generic]]
"""An answer as it was formed, by name: in the clear what is sent, with secure aggregation the
quantised vector before its masks (`outbound.py`)."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question of the server.

    Attributes:
        run: name of the run.
        kind: message type.
        round: of the run.
        question: 32 bytes, what is asked for (`Expected.question`); the model is not in it.
        digest: SHA-256 over the request with its model (`request_digest`).
    """

    run: str
    kind: str
    round: int
    question: bytes
    digest: bytes


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What became of a question.

    Attributes:
        formed: the answer; nothing if there is none.
        failure: what the server was told in place of an answer.
    """

    formed: Formed
    failure: str | None


class AnswerStore(Protocol):
    """A site's memory of its answers in one run.

    What `store` or `failed` has taken is found again whatever happens to the machine, if `repeats`
    says so. Between the two entries of one `turn` no other process answers for this site and run.
    """

    @property
    def repeats(self) -> bool:
        """Whether a question may be asked again: then it is answered from here."""
        ...

    def require_run(self, run: str) -> None:
        """Refuse any other run than the one that is remembered here.

        Raises:
            ProtocolError: it is another one.
        """
        ...

    def turn(self, run: str) -> AbstractContextManager[None]:
        """One request's turn; whoever else answers for this site in this run waits.

        Raises:
            ProtocolError: see `require_run`.
            PrivacyError: the disk cannot be written.
        """
        ...

    def find(self, asked: Asked) -> Stored | None:
        """What became of a question; None if it was never worked on to an end.

        Raises:
            ProtocolError: it was asked with another model, or is not to be asked again.
            PrivacyError: what is stored is damaged.
        """
        ...

    def store(self, asked: Asked, formed: Formed) -> None:
        """Keep an answer, before the ledger hears of it and before anything is sent.

        Raises:
            PrivacyError: it cannot be kept; nothing may be sent then.
        """
        ...

    def failed(self, asked: Asked, failure: str) -> None:
        """Keep that there is no answer, and what the server is told instead.

        Raises:
            PrivacyError: it cannot be kept.
        """
        ...


class AnsweredOnce:
    """Remembers, in one process, what was asked, and refuses it the second time.

    Training is left to `rounds.py` and the ledger, which keep account of it.
    """

    repeats = False

    def __init__(self) -> None:
        self._asked: set[tuple[str, bytes]] = set()

    def require_run(self, run: str) -> None:
        """Any run will do."""

    def turn(self, run: str) -> AbstractContextManager[None]:
        """Nobody else is there."""
        return nullcontext()

    def find(self, asked: Asked) -> Stored | None:
        """Never anything.

        Raises:
            ProtocolError: it was asked before.
        """
        if (asked.run, asked.question) in self._asked:
            raise ProtocolError(
                f"The server asks for {asked.kind} of round {asked.round} again; each is answered "
                "once."
            )
        return None

    def store(self, asked: Asked, formed: Formed) -> None:
        """Remember that it was asked."""
        self._note(asked)

    def failed(self, asked: Asked, failure: str) -> None:
        """Remember that it was asked."""
        self._note(asked)

    def _note(self, asked: Asked) -> None:
        if asked.kind != TRAIN:
            self._asked.add((asked.run, asked.question))
