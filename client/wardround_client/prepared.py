"""A cohort after the fitted preprocessing steps: float32 arrays on disk, memory-mapped.

They are written once for each set of fitted constants and shared by every process that serves
the site. The constants come from the server, so only the sets that were used last are kept.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround_client.cohort import Cohort
from wardround_client.cohort_files import written_beside
from wardround_shared.digests import FieldDigest
from wardround_shared.errors import DataError
from wardround_shared.messages import Fitted
from wardround_shared.preprocessing import Recipe

Parts = tuple[NDArray[np.float32], ...]


KEPT = 8
"""Sets of fitted constants whose arrays are kept for a cohort."""

_PREFIX = "prepared-"
_TRIES = 3


def prepare(cohort: Cohort, recipe: Recipe, fitted: Fitted) -> Parts:
    """Arrays [n, ...] ready for the model, one a part.

    Raises:
        DataError: the disk is full or the cohort's folder cannot be written.
    """
    folder = cohort.folder / f"{_PREFIX}{prepared_key(recipe, fitted)}"
    for _ in range(_TRIES):
        if not folder.is_dir():
            parts = recipe.transform(cohort.arrays, fitted)
            if all(part is array for part, array in zip(parts, cohort.arrays, strict=True)):
                return parts  # no step changes the decoded arrays, which are mapped already
            _write(folder, parts)
            _forget_the_oldest(cohort.folder, but=folder)
        # Another process may find that its own constants are newer, and remove these.
        with suppress(FileNotFoundError):
            return _mapped(folder, len(cohort.arrays))
    raise DataError(
        f"{folder}: the prepared cohort vanishes as soon as it is written; let no more than "
        f"{KEPT} runs use one cache at a time."
    )


def prepared_key(recipe: Recipe, fitted: Fitted) -> str:
    """What the prepared arrays of one cohort depend on, hashed."""
    digest = FieldDigest("wardround/prepared/2")
    digest.text(recipe.transform_key)
    for constants in fitted:
        digest.number(len(constants))
        for name in sorted(constants):
            digest.text(name)
            digest.array(np.asarray(constants[name]))
    return digest.hexdigest()[:24]


def _mapped(folder: Path, parts: int) -> Parts:
    """The arrays, and a note in the folder's time that they were used."""
    arrays = tuple(np.load(folder / f"{part}.npy", mmap_mode="c") for part in range(parts))
    with suppress(PermissionError):  # a cache that is only read from
        os.utime(folder)
    return arrays


def _forget_the_oldest(cohort: Path, *, but: Path) -> None:
    """Remove what was not used for the longest time; arrays that are mapped somewhere stay."""
    used = {}
    for folder in cohort.glob(f"{_PREFIX}*"):
        with suppress(FileNotFoundError):
            used[folder] = folder.stat().st_mtime_ns
    for folder in sorted(used, key=used.__getitem__, reverse=True)[KEPT:]:
        if folder == but:
            continue
        # Under another name first, so that nobody finds half of it.
        removed = Path(tempfile.mkdtemp(prefix=".removed-", dir=cohort))
        with suppress(OSError):
            folder.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)


def _write(folder: Path, parts: tuple[NDArray[np.float32], ...]) -> None:
    try:
        with written_beside(folder, prefix=".unfinished-") as unfinished:
            for number, part in enumerate(parts):
                np.save(unfinished / f"{number}.npy", part)
    except OSError as error:
        raise DataError(
            f"{folder.parent}: the prepared cohort cannot be written "
            f"({os.strerror(error.errno or 0)}); free some disk space."
        ) from error
