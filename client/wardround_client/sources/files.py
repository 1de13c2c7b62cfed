"""Which files a study means: patterns, paths and fingerprints, confined to the data folder.

A study comes from outside the hospital and label tables are written by many hands, so no pattern
and no cell may lead out of the data folder.
"""

import errno
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from wardround_shared.errors import DataError, StudyError, UnreadableError


def data_folder(folder: Path, below: str = ".") -> Path:
    """The folder `below` the data folder.

    Raises:
        DataError: it is not there.
        StudyError: `below` leads out of the data folder.
    """
    confine(below, "data.folder")
    place = folder / below
    if not place.is_dir():
        raise DataError(f"{place}: there is no such data folder.")
    return place


def matching(folder: Path, patterns: Iterable[str], key: str) -> tuple[Path, ...]:
    """Files that match glob patterns relative to the folder, sorted, each once.

    Raises:
        DataError: a pattern matches no file.
        StudyError: a pattern leads out of the folder; `key` names it.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        confine(pattern, key)
        files = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not files:
            raise DataError(f"{folder}: no file matches {pattern!r}, which {key} asks for.")
        found.update(dict.fromkeys(files))
    return tuple(found)


def confine(path: str, key: str) -> None:
    """Refuse a study's path that leads out of the data folder.

    Raises:
        StudyError: naming the key.
    """
    if not _is_confined(path):
        raise StudyError(f"{key}: {path!r} leads out of the data folder; write a path inside it.")


def _is_confined(path: str) -> bool:
    pure = PurePosixPath(path)
    return bool(path) and not pure.is_absolute() and ".." not in pure.parts and "\0" not in path


def inside(folder: Path, cell: str) -> Path:
    """The file that a table's cell names.

    Raises:
        UnreadableError: the cell is empty or leads out of the folder.
    """
    if not _is_confined(cell):
        raise UnreadableError("the table names no file inside the data folder")
    return folder / cell


def file_fault(error: OSError) -> str:
    """Why the system refused a file, as a phrase without its path."""
    if error.errno == errno.ENOENT:
        return "the file is not there"
    return f"the file cannot be read ({os.strerror(error.errno or errno.EIO)})"


def walk(folder: Path) -> tuple[Path, ...]:
    """Every file below the folder, sorted."""
    return tuple(
        sorted(Path(place) / name for place, _, names in os.walk(folder) for name in names)
    )


def relative(folder: Path, path: Path) -> str:
    """The path below the folder, with forward slashes."""
    return path.relative_to(folder).as_posix()


def fingerprint(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 in hex over relative names, sizes and modification times.

    Raises:
        DataError: a file vanished meanwhile.
    """
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: {file_fault(error)}.") from error
        line = f"{relative(folder, path)}\0{status.st_size}\0{status.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
