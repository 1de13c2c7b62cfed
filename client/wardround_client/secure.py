"""A site's part in secure aggregation, with its one-shot state on disk before anything is sent.

The protocol itself is `wardround_shared.secure_aggregation`; here are only the files. Layout of the
folder, mode 0700: `identity.key`, `state`, `spent/` (one empty file for each answer given).
"""

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

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
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(folder / "identity.key", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(file, "wb") as key:
            key.write(private)
    except OSError as error:
        raise PrivacyError(
            f"The identity key of this site cannot be written ({error.strerror})."
        ) from error


@dataclass(frozen=True, kw_only=True)
class SpentFiles:
    """The register of answers given: an empty file for each, made exclusively.

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
        try:
            file = os.open(self.folder / token.hex(), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError as error:
            raise SpentError(
                "This site has given that answer in this round already; it waits for the next."
            ) from error
        except OSError as error:
            raise PrivacyError(
                f"The register of given answers cannot be written ({error.strerror}); "
                "free some disk space."
            ) from error
        try:
            if self.durable:
                os.fsync(file)
                _sync_folder(self.folder)
        finally:
            os.close(file)


class SecureMember:
    """One site in the secure sums of one run."""

    def __init__(self, folder: Path, *, terms: Terms, site: str, durable: bool) -> None:
        """Take up where the folder says, or begin.

        Args:
            folder: of this site and run; holds `identity.key`.
            terms: as this site has approved them.
            site: its name in the roster.
            durable: see `SpentFiles`.

        Raises:
            SecureAggregationError: the roster or the stored state is not acceptable.
        """
        self.sites = len(terms.roster)
        self._state = folder / "state"
        self._durable = durable
        spent = folder / "spent"
        spent.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity = Identity((folder / "identity.key").read_bytes())
        one_shots = SpentFiles(folder=spent, durable=durable)
        stored = _read_state(self._state)
        if stored is not None:
            self._site = SecureSite.from_bytes(
                stored,
                terms=terms,
                site=site,
                identity=identity,
                random=os.urandom,
                one_shots=one_shots,
            )
        else:
            self._site = SecureSite(
                terms=terms, site=site, identity=identity, random=os.urandom, one_shots=one_shots
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

    def mask(
        self,
        received: Encoded,
        vector: NDArray[np.uint32],
        *,
        layout: VectorLayout,
        model_digest: bytes,
    ) -> dict[str, bytes]:
        """Mask this round's one vector (uint32 [words of the layout], quantised) in place.

        Raises:
            SecureAggregationError: refused; nothing is sent.
        """
        masked = self._site.mask(
            decode(received[MASK_REQUEST], MaskRequest),
            layout=layout,
            model_digest=model_digest,
            vector=vector,
        )
        return self._with_the_next({MASKED_VECTOR: encode(masked)}, received)

    def confirm(self, received: Encoded) -> dict[str, bytes]:
        """Sign the survivor set, and deal shares for the next round.

        Raises:
            SecureAggregationError: refused; nothing is sent.
        """
        answer: dict[str, bytes] = {}
        if SURVIVORS in received:
            signed = self._site.sign(decode(received[SURVIVORS], Survivors))
            answer[CONFIRMATION] = encode(signed)
        return self._with_the_next(answer, received)

    def unmask(self, received: Encoded) -> dict[str, bytes]:
        """Give out one share of each site of the cohort.

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

    def _with_the_next(self, answer: dict[str, bytes], received: Encoded) -> dict[str, bytes]:
        """The answer, with the half for the coming round; refusing that does not take it back."""
        with suppress(SecureAggregationError):
            self._prepare(received, answer)
        self._store()
        return answer

    def _store(self) -> None:
        """Put the state on disk; nothing may be sent before."""
        content = self._site.to_bytes()
        try:
            if self._durable:
                _replace(self._state, content)
            else:
                _overwrite(self._state, content)
        except OSError as error:
            raise PrivacyError(
                f"The state of secure aggregation cannot be written ({error.strerror}); nothing "
                "was sent. Free some disk space."
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
    return framed[_LENGTH : _LENGTH + int.from_bytes(framed[:_LENGTH], "big")]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
