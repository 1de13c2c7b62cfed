"""A site's part in secure aggregation, with its one-shot state on disk before anything is sent.

The protocol itself is `wardround_shared.secure_aggregation`; here are only the files. Layout of the
folder, mode 0700: `state`, `spent/` (a file for each answer given) and, unless the site keeps it
elsewhere, `identity.key`.
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkstemp

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import PrivacyError
from wardround_shared.messages import (
    ADVERTISEMENT,
    ADVERTISEMENTS,
    CONFIRMATION,
    KEYS_REQUEST,
    MASK_REQUEST,
    MASKED_VECTOR,
    SEALED_SHARES,
    SURVIVORS,
    UNMASK_ANSWER,
    UNMASK_REQUEST,
)
from wardround_shared.secure_aggregation import Identity, VectorLayout
from wardround_shared.secure_aggregation.faults import SecureAggregationError, SpentError
from wardround_shared.secure_aggregation.one_mask import OneMask
from wardround_shared.secure_aggregation.roster import Terms
from wardround_shared.secure_aggregation.site import SecureSite
from wardround_shared.secure_aggregation.wire import (
    Advertisements,
    KeysRequest,
    MaskRequest,
    Survivors,
    UnmaskRequest,
    decode,
    encode,
)

SECURE = "secure"
"""Name of the folder, below that of the site and run."""

Encoded = Mapping[str, bytes]

_LENGTH = 8
"""Bytes of the stored state's length, which comes before it."""


def write_identity(folder: Path, private: bytes) -> None:
    """Keep an Ed25519 private key (32 bytes) in a new folder.

    Raises:
        PrivacyError: there is one already, or the disk is full.
    """
    with _written("The identity key of this site"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(folder / "identity.key", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(file, "wb") as key:
            key.write(private)


@dataclass(frozen=True, kw_only=True)
class SpentFiles:
    """The register of answers given: a file for each, made exclusively, never written again.

    It is empty, or holds the 32 bytes that its token was bound to.

    Attributes:
        durable: whether a file survives a power cut before the answer is sent; a simulation, whose
            sites end with their machine, does without.
    """

    folder: Path
    durable: bool

    def spend(self, token: bytes) -> None:
        """See `OneShots.spend`.

        Raises:
            SpentError: this answer was given before.
            PrivacyError: the register cannot be written; nothing may be answered then.
        """
        with _written("The register of given answers"):
            try:
                file = os.open(self._file(token), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            except FileExistsError as error:
                raise SpentError(
                    "This site has given that answer in this round already; it waits for the next."
                ) from error
            try:
                if self.durable:
                    os.fsync(file)
                    _sync_folder(self.folder)
            finally:
                os.close(file)

    def bind(self, token: bytes, value: bytes) -> None:
        """See `OneShots.bind`.

        Raises:
            SpentError: the token was bound to another value before.
            PrivacyError: as for `spend`.
        """
        with _written("The register of given answers"):
            # Whole under another name first: a file cut short by a crash would burn the token.
            file, unfinished = mkstemp(prefix=".", dir=self.folder)
            try:
                with os.fdopen(file, "wb") as opened:
                    opened.write(value)
                    opened.flush()
                    if self.durable:
                        os.fsync(opened.fileno())
                with suppress(FileExistsError):
                    os.link(unfinished, self._file(token))
            finally:
                Path(unfinished).unlink()
            if self._file(token).read_bytes() != value:
                raise SpentError("This site has answered that in another way already.")
            if self.durable:  # also if it was there: who made it may not have come so far
                _sync_folder(self.folder)

    def spent(self, token: bytes) -> bool:
        """See `OneShots.spent`.

        Raises:
            PrivacyError: the register cannot be read.
        """
        try:
            self._file(token).stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise PrivacyError(
                f"The register of given answers cannot be read ({error.strerror}); see to the disk "
                "of this site."
            ) from error
        return True

    def _file(self, token: bytes) -> Path:
        return self.folder / token.hex()


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """A request for a masked vector that was checked, and whose masks are spent.

    Attributes:
        mask: for the vector.
        finish: forms what is sent of the masked vector, with the state on disk.
    """

    mask: OneMask
    finish: Callable[[dict[str, bytes]], dict[str, bytes]]

    def answer(self, vector: NDArray[np.uint32]) -> dict[str, bytes]:
        """Mask the vector (uint32 [words of the layout], quantised) in place and form the answer.

        Raises:
            PrivacyError: the vector does not fit, or the state cannot be stored; nothing is sent.
        """
        return self.finish({MASKED_VECTOR: encode(self.mask.apply(vector))})


class SecureMember:
    """One site in the secure sums of one run."""

    def __init__(
        self,
        folder: Path,
        *,
        terms: Terms,
        site: str,
        smallest_cohort: int,
        durable: bool,
        identity_file: Path | None = None,
    ) -> None:
        """Take up where the folder says, or begin.

        Args:
            folder: of this site and run.
            terms: as this site has approved them.
            site: its name in the roster.
            smallest_cohort: fewest sites of a sum that this site accepts; at least the study's
                `minimum-sites`.
            durable: see `SpentFiles`.
            identity_file: the Ed25519 private key, 32 bytes; `identity.key` in the folder by
                default.

        Raises:
            SecureAggregationError: the roster or the stored state is not acceptable.
            PrivacyError: a file cannot be read or written.
        """
        self.run = terms.run
        self.sites = len(terms.roster)
        self._state = folder / "state"
        self._durable = durable
        spent = folder / "spent"
        with _written("The register of given answers"):
            spent.mkdir(mode=0o700, parents=True, exist_ok=True)
        stored = _read_state(self._state)
        start = SecureSite if stored is None else partial(SecureSite.from_bytes, stored)
        self._site = start(
            terms=terms,
            site=site,
            identity=_read_identity(identity_file or folder / "identity.key"),
            random=os.urandom,
            one_shots=SpentFiles(folder=spent, durable=durable),
            smallest_cohort=smallest_cohort,
        )

    def set_up(self, received: Encoded) -> dict[str, bytes]:
        """Answer the halves of an exchange that prepare a coming round.

        Raises:
            SecureAggregationError: refused; nothing is sent, and what is stored is as it was.
        """
        answer: dict[str, bytes] = {}
        self._prepare(received, answer)
        self._store()
        return answer

    def accept(
        self, received: Encoded, *, layout: VectorLayout, model_digest: bytes, question: bytes
    ) -> Acceptance:
        """Check a request for a masked vector and spend the masks of its round.

        No data is needed: they are touched once this has returned. Should anything fail from here
        on, this round stays without an answer of this site; the question can be asked in another.

        Args:
            received: the protocol's messages that came with the request.
            layout: of the vector, worked out from the study.
            model_digest: of the request, as this site has understood it.
            question: see `SecureSite.mask`.

        Raises:
            SecureAggregationError: refused; nothing is spent unless it was before.
            PrivacyError: the register cannot be written.
        """
        mask = self._site.mask(
            decode(received[MASK_REQUEST], MaskRequest),
            layout=layout,
            model_digest=model_digest,
            question=question,
        )
        return Acceptance(mask=mask, finish=partial(self._with_the_next, received=received))

    def confirm(self, received: Encoded) -> dict[str, bytes]:
        """Sign the survivor set, and deal shares for the next round.

        Raises:
            SecureAggregationError: refused; nothing is sent.
        """
        answer: dict[str, bytes] = {}
        if SURVIVORS in received:
            signed = self._site.sign(decode(received[SURVIVORS], Survivors))
            answer[CONFIRMATION] = encode(signed)
        return self._with_the_next(answer, received=received)

    def unmask(self, received: Encoded) -> dict[str, bytes]:
        """Give out one share of each site of the cohort; the same again for the same request.

        Raises:
            SecureAggregationError: refused; nothing is sent.
        """
        answer = self._site.unmask(decode(received[UNMASK_REQUEST], UnmaskRequest))
        encoded = {UNMASK_ANSWER: encode(answer)}
        self._store()
        return encoded

    def _prepare(self, received: Encoded, answer: dict[str, bytes]) -> None:
        """Add to `answer`, half by half: after a refusal it has what was done before."""
        if KEYS_REQUEST in received:
            keys = self._site.advertise(decode(received[KEYS_REQUEST], KeysRequest))
            answer[ADVERTISEMENT] = encode(keys)
        if ADVERTISEMENTS in received:
            shares = self._site.share(decode(received[ADVERTISEMENTS], Advertisements))
            answer[SEALED_SHARES] = encode(shares)

    def _with_the_next(self, answer: dict[str, bytes], *, received: Encoded) -> dict[str, bytes]:
        """The answer, with the half for the coming round; refusing that does not take it back."""
        with suppress(SecureAggregationError):
            self._prepare(received, answer)
        self._store()
        return answer

    def _store(self) -> None:
        """Put the state on disk; nothing may be sent before."""
        write = _replace if self._durable else _overwrite
        with _written("The state of secure aggregation"):
            write(self._state, self._site.to_bytes())


@contextmanager
def _written(what: str) -> Iterator[None]:
    """A file that cannot be written stops the answer; its path stays at the site."""
    try:
        yield
    except OSError as error:
        raise PrivacyError(
            f"{what} cannot be written ({error.strerror}); nothing was sent. Free some disk space."
        ) from error


def _replace(state: Path, content: bytes) -> None:
    """Old or new content, whatever happens to the machine."""
    unfinished = state.with_name("state.unfinished")
    file = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(file, "wb") as opened:
        opened.write(_framed(content))
        opened.flush()
        os.fsync(opened.fileno())
    unfinished.replace(state)
    _sync_folder(state.parent)


def _overwrite(state: Path, content: bytes) -> None:
    """Old or new content, whatever happens to the process: enough for simulations.

    It is one write of the system; what a longer old content would leave behind it is cut off, and
    not read if that fails.
    """
    file = os.open(state, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        framed = _framed(content)
        if os.write(file, framed) < len(framed):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(file, len(framed))
    finally:
        os.close(file)


def _framed(content: bytes) -> bytes:
    return len(content).to_bytes(_LENGTH, "big") + content


def _read_state(state: Path) -> bytes | None:
    """What was stored; None if nothing was yet. A cut file is refused when it is parsed."""
    try:
        framed = state.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PrivacyError(
            f"The state of secure aggregation cannot be read ({error.strerror}); see to the disk "
            "of this site."
        ) from error
    return framed[_LENGTH : _LENGTH + int.from_bytes(framed[:_LENGTH], "big")]


def _read_identity(file: Path) -> Identity:
    try:
        return Identity(file.read_bytes())
    except OSError as error:
        raise PrivacyError(
            f"The identity key of this site cannot be read ({error.strerror}); join the run again."
        ) from error
    except ValueError as error:  # not 32 bytes
        raise PrivacyError(
            "The identity key of this site is damaged; bring it back from a backup, or join the "
            "run with a new one."
        ) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
