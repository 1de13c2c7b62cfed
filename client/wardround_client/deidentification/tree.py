"""Folder in, folder out: which files are looked at, and where new ones are written."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from wardround_client.deidentification.refusals import Reason, refused
from wardround_client.durable import private_folder
from wardround_shared.consortium.files import why
from wardround_shared.errors import DataError


def files_below(place: Path) -> Iterator[Path]:
    """Every name that is no folder, sorted; symbolic links are named and never followed.

    Args:
        place: a folder, or one file.

    Raises:
        DataError: there is no such place, or a folder of it cannot be read.
    """
    if place.is_file():
        yield place.resolve()
        return
    if not place.is_dir():
        raise DataError(f"{place}: there is no such file or folder; name the one with the images.")

    def refuse(error: OSError) -> None:
        # Without the name of the folder, which may be a patient's.
        raise DataError(f"{place}: a folder below it cannot be read ({why(error)}).") from error

    for folder, folders, names in os.walk(place, onerror=refuse):
        folders.sort()
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        yield from (Path(folder) / name for name in sorted([*names, *links]))


def read_file(file: Path) -> bytes:
    """The content of a regular file.

    Raises:
        UnreadableError: a link, no regular file, or one that the system refuses to read.
    """
    try:
        mode = file.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise refused(Reason.LINK)
        if not stat.S_ISREG(mode):
            raise refused(Reason.SPECIAL)
        # A name that became a link or a pipe meanwhile is not followed and not waited for.
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as opened:
            return opened.read()
    except OSError as error:
        raise refused(Reason.SYSTEM) from error


def make_output(place: Path, *, source: Path) -> None:
    """Make the folder for the new files, mode 0700.

    Raises:
        DataError: something is in it, it lies in the folder that is read, or it cannot be made.
    """
    if place.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{place}: this lies in the folder that is read; name one outside of it.")
    try:
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise DataError(f"{place}: this is no folder; name one that is new or empty.")
        if place.is_dir() and any(place.iterdir()):
            raise DataError(
                f"{place}: this folder is not empty, and nothing is ever written over; name one "
                "that is new or empty."
            )
        private_folder(place)
        place.chmod(0o700)
    except OSError as error:
        raise DataError(f"{place}: the folder cannot be made ({why(error)}).") from error
