"""A site's answers in one run on its disk: a file for each question, named by the question's hex.

`<question>.answer` holds an answer or a failure, `<question>.answered` only that the question was
answered. A file is the label, the length of what describes it, this description (JSON), padding,
the arrays (each followed by padding) and SHA-256 over all of that. The hash is against disks that
lose or change bytes, and against files put in each other's place; not against whoever keeps the
machine. Folder 0700, files 0600: an answer is as confidential as the data it came from.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.answers import Asked, Formed, Stored
from wardround_client.durable import keeping, locked, private_folder, remove_unfinished, replace
from wardround_shared.errors import PrivacyError, ProtocolError

_log = logging.getLogger(__name__)

ANSWERS = "answers"
"""Name of the folder, below that of the site and run."""

_LABEL = b"wardround/answer/1\n"
_HASH_BYTES = 32
_LENGTH_BYTES = 8
# What is mapped or read into memory begins at a multiple of this, so that arrays are aligned.
_ALIGNED = 64
_START = len(_LABEL) + _LENGTH_BYTES
_TYPES = frozenset({"<f4", "<f8", "<u4"})
_DAMAGED = (
    "What this site has stored of an answer is damaged or was changed, so it is not sent; this "
    "site cannot answer that question again, see to its disk."
)


@dataclass(frozen=True, kw_only=True)
class AnswerFiles:
    """The answers of one site in one run, as files.

    Attributes:
        folder: of the answers; made if need be.
        run: the one run that is answered.
        study_id: its study.
    """

    folder: Path
    run: str
    study_id: str

    @property
    def repeats(self) -> bool:
        """What was stored is given again."""
        return True

    def require_run(self, run: str) -> None:
        """See `AnswerStore.require_run`."""
        if run != self.run:
            raise ProtocolError("A request is of another run than the one agreed on here; refused.")

    @contextmanager
    def turn(self, run: str) -> Iterator[None]:
        """See `AnswerStore.turn`; the lock is the folder's own and ends with the process."""
        self.require_run(run)
        with ExitStack() as held:
            with keeping("The answers of this site"):
                private_folder(self.folder)
                held.enter_context(locked(self.folder))
            yield

    def find(self, asked: Asked) -> Stored | None:
        """See `AnswerStore.find`.

        Raises:
            ValueError: the request has no digest, so that nobody can tell it from another.
        """
        if len(asked.digest) != _HASH_BYTES:
            raise ValueError("a request without a digest")
        for file in (self._answer(asked.question), self._tombstone(asked.question)):
            content = _read(file)
            if content is not None:
                return self._taken(content, asked)
        return None

    def store(self, asked: Asked, formed: Formed) -> None:
        """See `AnswerStore.store`."""
        self._write(asked, formed, failure=None)

    def failed(self, asked: Asked, failure: str) -> None:
        """See `AnswerStore.failed`."""
        self._write(asked, {}, failure=failure)

    # --- parts -------------------------------------------------------------------------------

    def _taken(self, content: "_Content", asked: Asked) -> Stored:
        about, mine = content.about, self._about(asked)
        if {name: about.get(name) for name in mine} != mine:
            raise PrivacyError(_DAMAGED)
        if about.get("digest") != asked.digest.hex():
            raise ProtocolError(
                f"The server asks for {asked.kind} of round {asked.round} again and with another "
                "model than before; each question is answered for one model."
            )
        if about.get("dropped"):
            raise ProtocolError(
                f"The server asks for {asked.kind} of round {asked.round}, which this site has "
                "answered; the answer is kept for two rounds and not given again."
            )
        return Stored(formed=content.arrays, failure=about.get("failure"))

    def _write(self, asked: Asked, formed: Formed, *, failure: str | None) -> None:
        with keeping("The answer of this site"):
            remove_unfinished(self.folder)
            # First, so that a disk needs room for two models and no more.
            self._drop_before(asked.round - 1)
            about = self._about(asked) | {"digest": asked.digest.hex(), "failure": failure}
            replace(self._answer(asked.question), _encoded(about, formed))

    def _drop_before(self, number: int) -> None:
        """Leave of answers of earlier rounds only that they were given."""
        for file in self.folder.glob("*.answer"):
            about = _described(file)
            if about is None or about.get("round", number) >= number:
                continue  # damaged ones stay, for a person to look at
            replace(file.with_suffix(".answered"), _encoded(about | {"dropped": True}, {}))
            file.unlink()

    def _about(self, asked: Asked) -> dict[str, Any]:
        return {
            "study_id": self.study_id,
            "run": self.run,
            "kind": asked.kind,
            "round": asked.round,
            "question": asked.question.hex(),
        }

    def _answer(self, question: bytes) -> Path:
        return self.folder / f"{question.hex()}.answer"

    def _tombstone(self, question: bytes) -> Path:
        return self.folder / f"{question.hex()}.answered"


@dataclass(frozen=True, kw_only=True)
class _Content:
    """A file that was read: what describes it, and its arrays."""

    about: dict[str, Any]
    arrays: dict[str, NDArray[np.generic]]


def _encoded(about: Mapping[str, Any], formed: Formed) -> Iterator[bytes | memoryview]:
    """The parts of a file one after another; arrays are not copied."""
    arrays = {name: np.ascontiguousarray(array) for name, array in formed.items()}
    described = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    text = json.dumps(dict(about) | {"arrays": described}, sort_keys=True).encode()
    hashed = hashlib.sha256()
    head = _LABEL + len(text).to_bytes(_LENGTH_BYTES, "big") + text
    parts: list[bytes | memoryview] = [head + _padding(len(head))]
    for array in arrays.values():
        parts += [array.reshape(-1).view(np.uint8).data, _padding(array.nbytes)]
    for part in parts:
        hashed.update(part)
        yield part
    yield hashed.digest()


def _read(file: Path) -> _Content | None:
    """The content of a file that is whole; None if there is no file.

    Raises:
        PrivacyError: it is not whole, or cannot be read.
    """
    try:
        # Read, and not mapped: what is given to the masks is changed in place.
        data = np.fromfile(file, dtype=np.uint8)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PrivacyError(_DAMAGED) from error
    whole, found = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
    if hashlib.sha256(whole.data).digest() != found.tobytes():
        _log.error("%s: the stored answer does not fit its own hash", file)
        raise PrivacyError(_DAMAGED)
    try:
        return _parsed(whole)
    except (ValueError, TypeError, KeyError) as error:
        raise PrivacyError(_DAMAGED) from error


def _parsed(data: NDArray[np.uint8]) -> _Content:
    if data[: len(_LABEL)].tobytes() != _LABEL:
        raise ValueError("another kind of file")
    end = _START + int.from_bytes(data[len(_LABEL) : _START].tobytes(), "big")
    about = json.loads(data[_START:end].tobytes())
    arrays, place = {}, end + len(_padding(end))
    for name, kind, shape in about["arrays"]:
        if kind not in _TYPES:
            raise ValueError(kind)
        size = math.prod(shape) * np.dtype(kind).itemsize
        arrays[name] = data[place : place + size].view(kind).reshape(shape)
        place += size + len(_padding(size))
    if place != len(data):
        raise ValueError("another length")
    return _Content(about=about, arrays=arrays)


def _described(file: Path) -> dict[str, Any] | None:
    """What describes a file, without a look at its arrays; None if it cannot be read."""
    try:
        with file.open("rb") as opened:
            head = opened.read(_START)
            text = opened.read(min(int.from_bytes(head[len(_LABEL) :], "big"), 1 << 20))
        about = json.loads(text)
    except (OSError, ValueError):
        return None
    return about if head.startswith(_LABEL) and isinstance(about, dict) else None


def _padding(length: int) -> bytes:
    return bytes(-length % _ALIGNED)
