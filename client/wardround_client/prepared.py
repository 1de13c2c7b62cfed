"""A cohort after the fitted preprocessing steps: float32 arrays on disk, memory-mapped.

They are written once for each set of fitted constants and shared by every process that serves
the site.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround_client.cohort import Cohort
from wardround_shared.errors import DataError
from wardround_shared.messages import Fitted
from wardround_shared.preprocessing import Recipe

Parts = tuple[NDArray[np.float32], ...]


def prepare(cohort: Cohort, recipe: Recipe, fitted: Fitted) -> Parts:
    """Arrays [n, ...] ready for the model, one a part.

    Raises:
        DataError: the disk is full or the cohort's folder cannot be written.
    """
    folder = cohort.folder / f"prepared-{prepared_key(recipe, fitted)}"
    if not folder.is_dir():
        parts = recipe.transform(cohort.arrays, fitted)
        if all(part is array for part, array in zip(parts, cohort.arrays, strict=True)):
            return parts  # no step changes the decoded arrays, which are mapped already
        _write(folder, parts)
    return tuple(np.load(file, mmap_mode="c") for file in sorted(folder.glob("*.npy")))


def prepared_key(recipe: Recipe, fitted: Fitted) -> str:
    """What the prepared arrays of one cohort depend on, hashed."""
    digest = hashlib.sha256(recipe.transform_key.encode())
    for constants in fitted:
        for key in sorted(constants):
            digest.update(f"/{key}/".encode())
            digest.update(np.ascontiguousarray(constants[key]).tobytes())
    return digest.hexdigest()[:24]


def _write(folder: Path, parts: tuple[NDArray[np.float32], ...]) -> None:
    """Write beside the final place, then rename: another process may do the same."""
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    try:
        for number, part in enumerate(parts):
            np.save(unfinished / f"{number}.npy", part)
        unfinished.rename(folder)
    except OSError as error:
        if not folder.is_dir():
            raise DataError(
                f"{folder.parent}: the prepared cohort cannot be written "
                f"({os.strerror(error.errno or 0)}); free some disk space."
            ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
