"""The files of a home: for its user alone, and several of them changed together or not at all.

A change is first made whole in the folder `change.unfinished`, which is then renamed to
`change.ready`; from there on it is made, and its files are moved to their places. Whoever opens the
home after a crash finishes that. An unfinished one never was.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from wardround_shared.errors import EnrolmentError

_UNFINISHED = "change.unfinished"
_READY = "change.ready"
_LISTING = "listing.json"
_LOCK = "home.lock"

# Names that may lie in a home which is otherwise empty.
_OWN = frozenset({_UNFINISHED, _LOCK, "lost+found"})

_REMEDIES = {
    errno.ENOENT: "see to its path, or bring it back from a backup",
    errno.ENOTDIR: "see to its path",
    errno.EISDIR: "name a file",
    errno.EACCES: "run this as the user to whom it belongs, or see to its permissions",
    errno.EPERM: "run this as the user to whom it belongs, or see to its permissions",
    errno.EROFS: "the disk can only be read: name another place",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
}


def why(error: OSError) -> str:
    """What the system says of a file, and what to do, as a phrase without its path."""
    said = error.strerror or type(error).__name__
    return f"{said}; {_REMEDIES.get(error.errno or 0, 'see to the disk')}"


def read_secret(file: Path) -> bytes:
    """Read a private key.

    Raises:
        EnrolmentError: it cannot be read, or others than its user could read or change it.
    """
    with _one_sentence(file, "read"), file.open("rb") as opened:
        mode = os.fstat(opened.fileno()).st_mode & 0o777
        if mode & 0o077:
            raise EnrolmentError(
                f"{file}: others can get at this private key (mode {mode:04o}); run chmod 600 on "
                "it, and have it replaced if anybody else uses this machine."
            )
        return opened.read()


def read_file(file: Path, *, most: int = -1) -> bytes:
    """Read a file that is no secret.

    Args:
        file: of a home, or one that somebody sent.
        most: bytes that are read of it; -1: all.

    Raises:
        EnrolmentError: it cannot be read.
    """
    with _one_sentence(file, "read"), file.open("rb") as opened:
        return opened.read(most)


def require_place(file: Path) -> None:
    """Refuse where no file can be written for others, before anything else is changed.

    Raises:
        EnrolmentError: it is a folder, or would lie in none that can be written.
    """
    if file.is_dir():
        raise EnrolmentError(f"{file}: this is a folder; name the file that is to be written.")
    if not file.parent.is_dir():
        raise EnrolmentError(f"{file}: there is no such folder to write it in; make it first.")
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise EnrolmentError(f"{file}: nothing can be written in this folder; name another one.")


def write_for_others(file: Path, data: bytes) -> None:
    """Write a file that is sent to others; one that is there is replaced, whole.

    Raises:
        EnrolmentError: it cannot be written.
    """
    require_place(file)
    unfinished = file.with_name(f"{file.name}.unfinished")
    with _one_sentence(file, "written"):
        _write(unfinished, data, mode=0o644)
        unfinished.replace(file)
        _sync(file.parent)


def write_new_secret(file: Path, data: bytes) -> None:
    """Write a private key to where no file is.

    Raises:
        EnrolmentError: there is one, or it cannot be written; no half of it is left.
    """
    with _one_sentence(file, "written"):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(file, data, mode=0o600, new=True)
        _sync(file.parent)


def make_folder(home: Path) -> None:
    """Make the folder of a new home, if it is not there.

    Raises:
        EnrolmentError: it cannot be made.
    """
    with _one_sentence(home, "written"):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)


def take_empty(home: Path) -> None:
    """Have an empty folder be for its user alone, mode 0700; only inside `changing`.

    Raises:
        EnrolmentError: something is in it.
    """
    with _one_sentence(home, "written"):
        if {path.name for path in home.iterdir()} - _OWN:
            raise EnrolmentError(
                f"{home}: this folder is not empty, and nothing is ever written over; name "
                "another one."
            )
        home.chmod(0o700)


def holds(home: Path, file: Path) -> bool:
    """Whether a folder is a home with this file, once a change that was made is finished."""
    return file.is_file() or (home / _READY).is_dir()


@contextmanager
def changing(home: Path) -> Iterator[None]:
    """Alone with a home: no other process changes it meanwhile, and no change is half made.

    Raises:
        EnrolmentError: it is not there or cannot be written.
    """
    with _one_sentence(home, "opened"):
        lock = os.open(home / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _one_sentence(home, "written"):
            _finish(home)
        yield
    finally:
        os.close(lock)


def change_together(home: Path, changes: Mapping[Path, bytes | None]) -> None:
    """Replace, add and remove files of a home, all or none; only inside `changing`.

    Args:
        home: the folder.
        changes: file below it -> new content, or None to remove it. Files get mode 0600, new
            folders 0700.

    Raises:
        EnrolmentError: the disk is full or cannot be written.
    """
    with _one_sentence(home, "written"):
        unfinished = home / _UNFINISHED
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        listing = []
        for number, (file, data) in enumerate(changes.items()):
            listing.append([str(file.relative_to(home)), data is not None])
            if data is not None:
                _write(unfinished / str(number), data, mode=0o600)
        _write(unfinished / _LISTING, json.dumps(listing).encode(), mode=0o600)
        _sync(unfinished)
        unfinished.rename(home / _READY)
        _sync(home)
        _finish(home)


def _finish(home: Path) -> None:
    """Move the files of a change that was made to their places, from wherever it was left."""
    ready = home / _READY
    listing = ready / _LISTING
    if listing.exists():
        for number, (name, kept) in enumerate(json.loads(listing.read_bytes())):
            _place(ready / str(number), home / name, kept=kept)
        listing.unlink()
    if ready.exists():
        ready.rmdir()


def _place(made: Path, file: Path, *, kept: bool) -> None:
    for folder in reversed(file.parents):
        if not folder.exists():
            folder.mkdir(mode=0o700)
            _sync(folder.parent)
    if not kept:
        file.unlink(missing_ok=True)
    elif made.exists():  # otherwise it is in its place already
        made.replace(file)
    _sync(file.parent)


def _write(file: Path, data: bytes, *, mode: int, new: bool = False) -> None:
    flags = os.O_CREAT | os.O_WRONLY | (os.O_EXCL if new else os.O_TRUNC)
    handle = os.open(file, flags, mode)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
    except BaseException:
        file.unlink()
        raise


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _one_sentence(file: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnrolmentError(f"{file}: cannot be {what} ({why(error)}).") from error
