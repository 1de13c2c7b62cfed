"""Files that a crash leaves whole: their old content or the new, whatever happens meanwhile."""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wardround_shared.errors import PrivacyError

_UNFINISHED = ".unfinished"


def private_folder(folder: Path) -> None:
    """Make a folder, and those above it, for the site's user alone; nothing if it is there.

    Raises:
        OSError: it cannot be made.
    """
    if folder.is_dir():
        return
    private_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def replace(file: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write parts one after another in place of the file; it survives a power cut from here on.

    Raises:
        OSError: the disk is full or cannot be written; the file is as it was.
    """
    unfinished = file.with_name(file.name + _UNFINISHED)
    handle = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "wb") as opened:
        for part in parts:
            opened.write(part)
        opened.flush()
        os.fsync(handle)
    unfinished.replace(file)
    sync_folder(file.parent)


def remove_unfinished(folder: Path) -> None:
    """Free what writing that broke off has left; nobody else may be writing in the folder."""
    for left in folder.glob(f"*{_UNFINISHED}"):
        left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone with a folder: whoever else asks for it waits, and a process that dies lets go.

    Not to be entered twice by one process at a time, which would wait for itself.

    Raises:
        OSError: the folder is not there.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def keeping(what: str) -> Iterator[None]:
    """Turn what the operating system refuses into one sentence; paths stay at the site.

    Raises:
        PrivacyError: in place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise PrivacyError(
            f"{what} cannot be kept on the disk of this site ({error.strerror}), so nothing was "
            "sent; free some space or see to its permissions."
        ) from error
