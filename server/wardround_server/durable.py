"""Files that a crash leaves whole: the old content or the new one, never half of either."""

import os
from collections.abc import Callable
from pathlib import Path

_UNFINISHED = ".unfinished"

Write = Callable[[Path], object]
"""Makes the file at the path that it is given."""


def replace(file: Path, write: Write, *, durable: bool) -> None:
    """Have `write` make a file, and put it in the place of `file`.

    Args:
        file: that is to be replaced, or is not there yet.
        write: is given the path to write to.
        durable: survive a power cut from here on, not only the end of this process.

    Raises:
        OSError, SafetensorError: what `write` raised; the file is as it was.
    """
    # Two processes may write one file at a time: the last one wins, whole.
    unfinished = file.with_name(f".{file.name}.{os.getpid()}{_UNFINISHED}")
    try:
        write(unfinished)
        if durable:
            sync(unfinished)
        unfinished.replace(file)
    except Exception:
        unfinished.unlink(missing_ok=True)
        raise
    if durable:
        sync(file.parent)


def sync(place: Path) -> None:
    """Put a file's content, or a folder's names, on the disk itself.

    Raises:
        OSError: it is not there, or the disk failed.
    """
    handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Free what writing that broke off has left; nobody else may be writing the files so named."""
    for left in folder.glob(f".{name}.*{_UNFINISHED}"):
        left.unlink(missing_ok=True)
