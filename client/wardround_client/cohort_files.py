"""A cohort on disk: its files, arrays that grow while they are written, names that are safe.

A cohort's folder holds `part-0.npy` (and `part-1.npy` for static columns), `targets.npy`,
`examples.npy` (group, patient and side of the split of each example) and `cohort.json`.

n = examples, k = examples of one append.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

# Examples copied at a time.
_CHUNK = 1024
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")

EXAMPLE = np.dtype([("stratum", "<i8"), ("patient", "<i8"), ("validation", "?")])
"""What `examples.npy` says of each."""

TARGETS = "targets.npy"
_EXAMPLES, _ABOUT = "examples.npy", "cohort.json"


@dataclass(frozen=True, kw_only=True)
class About:
    """What a cohort's folder says of it.

    Attributes:
        parts: arrays that an example has.
        set_aside: examples of the site that could not be used.
    """

    site: str
    parts: int
    set_aside: int
    notes: Sequence[str] = ()


def array_names(parts: int) -> list[str]:
    """Files with one row for each example, in the order in which they are read."""
    return [*(f"part-{part}.npy" for part in range(parts)), TARGETS]


def read_about(folder: Path) -> tuple[About, NDArray[Any]]:
    """What a cohort's folder says of it, and `EXAMPLE` of each [n].

    Raises:
        OSError, ValueError, TypeError, EOFError: a file is not there or damaged.
    """
    about = About(**json.loads((folder / _ABOUT).read_text(encoding="utf-8")))
    return about, np.load(folder / _EXAMPLES, allow_pickle=False)


def write_about(folder: Path, about: About, examples: NDArray[Any]) -> None:
    """Write what `read_about` reads."""
    np.save(folder / _EXAMPLES, examples)
    (folder / _ABOUT).write_text(json.dumps(asdict(about)), encoding="utf-8")


@contextmanager
def written_beside(target: Path, *, prefix: str) -> Iterator[Path]:
    """A new folder to write in, which takes the target's name if all went well.

    Another process may do the same meanwhile; whatever it has finished is as good.

    Raises:
        OSError: it cannot be written.
    """
    building = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        yield building
        try:
            building.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


class GrowingArray:
    """An npy file [n, ...] that is written example by example; memory stays flat.

    A context manager: its end writes the final length.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self._count = 0
        self._file = path.open("wb")
        self._header()

    def append(self, examples: NDArray[Any]) -> None:
        """Add [k, ...] examples."""
        if examples.shape[1:] != self.shape or examples.dtype != self.dtype:
            raise ValueError(f"{examples.shape} {examples.dtype} is not {self.shape} {self.dtype}")
        self._file.write(np.ascontiguousarray(examples).data)
        self._count += len(examples)

    def _header(self) -> None:
        # NumPy pads the header for a growing first axis (NEP 1), so its length never changes.
        header = {
            "descr": npy.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self._count, *self.shape),
        }
        self._file.seek(0)
        npy.write_array_header_1_0(self._file, header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            self._header()


def join(sources: Iterable[Path], target: Path) -> None:
    """Write the rows of several npy files into one, in their order."""
    arrays = [np.load(source, mmap_mode="r") for source in sources]
    with GrowingArray(target, arrays[0].shape[1:], arrays[0].dtype) as joined:
        for array in arrays:
            for start in range(0, len(array), _CHUNK):
                joined.append(array[start : start + _CHUNK])


def copy_rows(source: NDArray[Any], rows: NDArray[np.int64], path: Path) -> None:
    """Write the given rows of a memory-mapped array as an npy file."""
    with GrowingArray(path, source.shape[1:], source.dtype) as target:
        for start in range(0, len(rows), _CHUNK):
            target.append(source[rows[start : start + _CHUNK]])


def folder_name(site: str) -> str:
    """A name that any file system takes and that no other site has."""
    safe = _UNSAFE.sub("-", site).strip("-")[:48]
    if safe == site:
        return safe
    return f"{safe}-{hashlib.sha256(site.encode()).hexdigest()[:8]}".lstrip("-")


def sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Size in bytes of each named file."""
    return {name: (folder / name).stat().st_size for name in names}
