"""A cohort on disk: arrays that grow while they are written, and names that are safe for folders.

n = examples, k = examples of one append.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

# Examples copied at a time.
_CHUNK = 1024
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


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
