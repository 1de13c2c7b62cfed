"""What is known of the ledger outside its database: how many rows, the last hash, which file.

It stands apart from the database, so that an older copy of the database does not fit it, and it is
sealed with the site's key. The file's inode tells a database from its copy. The device number says
nothing: many file systems get another one each time they are mounted.
"""

import hmac
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wardround_client.durable import sync_folder
from wardround_client.ledger import chain
from wardround_shared.errors import LedgerError

_LABEL = b"wardround/ledger/1/anchor"
_KEY_BYTES = 32
_TYPES = {
    "ledger_id": str,
    "site": str,
    "inode": int,
    "count": int,
    "committed": int,
    "head": str,
}


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where the parts of a ledger lie under the site's home; all are for the site's user alone."""

    home: Path

    @property
    def database(self) -> Path:
        """The SQLite database; `-wal` and `-shm` beside it belong to it."""
        return self.home / "ledger" / "ledger.db"

    @property
    def key(self) -> Path:
        """The key that rows and anchor are sealed with: 32 random bytes."""
        return self.home / "keys" / "ledger.key"

    @property
    def anchor(self) -> Path:
        """The anchor, as JSON."""
        return self.home / "keys" / "ledger.anchor"

    def parts(self) -> tuple[Path, ...]:
        """Everything that a ledger needs."""
        return self.database, self.key, self.anchor

    def traces(self) -> tuple[Path, ...]:
        """What there is of these, and of what may lie beside them."""
        beside = [self.database.with_name(f"{self.database.name}-{end}") for end in ("wal", "shm")]
        known = (*self.parts(), *beside, _unfinished(self.anchor))
        return tuple(file for file in known if os.path.lexists(file))


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """What the database has to agree with.

    Attributes:
        ledger_id: random; given once, when the ledger was made.
        site: whose ledger it is.
        inode: of the database file.
        count: reservations.
        committed: reservations whose training has ended. Rows are added and committed, never the
            reverse, so a database with less of either is an older one.
        head: hash of the last reservation, in hex; before the first, what that will follow.
    """

    ledger_id: str
    site: str
    inode: int
    count: int
    committed: int
    head: str

    def write(self, file: Path, *, key: bytes, durable: bool) -> None:
        """Replace the file: old or new content, whatever happens meanwhile.

        Raises:
            LedgerError: the disk is full or cannot be written.
        """
        content = asdict(self) | {"seal": self._seal(key).hex()}
        unfinished = _unfinished(file)
        with writing(file):
            handle = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                json.dump(content, opened, indent=2)
                if durable:
                    opened.flush()
                    os.fsync(handle)
            unfinished.replace(file)
            if durable:
                sync_folder(file.parent)

    def _seal(self, key: bytes) -> bytes:
        return chain.tag(_LABEL, asdict(self).values(), key)


def read_anchor(file: Path, *, key: bytes) -> Anchor:
    """Read an anchor and check its seal.

    Raises:
        LedgerError: it cannot be read, is cut off or was edited.
    """
    with reading(file):
        text = file.read_bytes()
    try:
        content: dict[str, Any] = json.loads(text)
        sealed = bytes.fromhex(content.pop("seal"))
        found = Anchor(**content)
        # The seal is over texts, in which 3 and "3" look alike.
        typed = all(type(value) is _TYPES[name] for name, value in content.items())
        sound = typed and hmac.compare_digest(sealed, found._seal(key))  # noqa: SLF001
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LedgerError(f"{file}: the ledger's anchor is cut off or damaged.") from error
    if not sound:
        raise LedgerError(
            f"{file}: the anchor's seal does not fit: the anchor was edited, or is another "
            "ledger's, or the key is."
        )
    return found


def read_key(file: Path) -> bytes:
    """Read the key.

    Raises:
        LedgerError: it cannot be read or is not whole.
    """
    with reading(file):
        key = file.read_bytes()
    if len(key) != _KEY_BYTES:
        raise LedgerError(
            f"{file}: the ledger's key is cut off or damaged: {len(key)} bytes instead of "
            f"{_KEY_BYTES}."
        )
    return key


def write_key(file: Path, *, durable: bool) -> bytes:
    """Make a new key, in a file that was not there.

    Raises:
        LedgerError: it is there, or the disk is full; no half of a key is left.
    """
    key = os.urandom(_KEY_BYTES)
    with writing(file):
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with os.fdopen(handle, "wb") as opened:
                opened.write(key)
                opened.flush()
                if durable:
                    os.fsync(handle)
        except BaseException:
            file.unlink()
            raise
    return key


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one sentence."""
    try:
        yield
    except OSError as error:
        raise LedgerError(f"{file}: cannot be read ({error.strerror}).") from error


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one sentence."""
    try:
        yield
    except OSError as error:
        raise LedgerError(
            f"{file}: cannot be written ({error.strerror}), so nothing may be trained."
        ) from error


def _unfinished(file: Path) -> Path:
    return file.with_name(f"{file.name}.unfinished")
