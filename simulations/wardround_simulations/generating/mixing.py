"""Training data with made images among them: a cohort that lasts as long as a measurement.

n = examples, N = made images.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround_client.cohort import Cohort, CohortSet, open_cohort
from wardround_client.cohort_files import (
    EXAMPLE,
    About,
    GrowingArray,
    array_names,
    read_about,
    write_about,
)
from wardround_shared.errors import DataError

_BATCH = 1024  # examples copied at a time


_PREFIX = ".mixed-"


@contextmanager
def short_lived_folder(beside: Path) -> Iterator[Path]:
    """A new folder for patients' images, which is removed in the end.

    What processes have left that were killed meanwhile is removed too.

    Raises:
        DataError: it cannot be made.
    """
    for left in beside.glob(f"{_PREFIX}[0-9]*-*"):
        if not _alive(int(left.name.removeprefix(_PREFIX).partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=beside))
    except OSError as error:
        raise _fault(beside, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _fault(place: Path, error: OSError) -> DataError:
    return DataError(
        f"{place}: the training data cannot be laid together ({error.strerror}); free some space "
        "or keep the cache elsewhere."
    )


@dataclass(frozen=True, kw_only=True)
class Made:
    """Made images as a site would have decoded them.

    Attributes:
        images: float32 [N, C, H, W].
        labels: int64 [N].
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def share_of(cohort: Cohort, share: float, seed: int) -> NDArray[np.int64]:
    """Numbers of the training examples of this share of the training patients, ascending.

    Who is among them follows from the patient's code and the seed alone, and whoever is among a
    smaller share is among a larger one.
    """
    codes = cohort.patients[cohort.train]
    everyone = sorted(set(codes.tolist()), key=lambda code: _place(code, seed))
    kept = everyone[: max(1, round(share * len(everyone)))]
    rows: NDArray[np.int64] = cohort.train[np.isin(codes, kept)]
    return rows


def _place(code: int, seed: int) -> bytes:
    return hashlib.sha256(f"wardround-share\0{seed}\0{code}".encode()).digest()


def mixed(
    cohort: Cohort, rows: NDArray[np.int64], made: Made | None, folder: Path, note: str
) -> CohortSet:
    """A cohort of these examples and the made ones to train on, and all to validate on.

    Args:
        cohort: where they come from, images of one part.
        rows: training examples to take; may be empty if there are made ones.
        made: added to them, each a patient of its own.
        folder: made here; it has patients' data.
        note: what a reader of the run has to know.

    Raises:
        DataError: it cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True)
        kept = np.concatenate([rows, cohort.validation])
        about, examples = read_about(cohort.folder)
        added = np.empty(0 if made is None else len(made.labels), dtype=EXAMPLE)
        added["validation"] = False
        added["patient"] = np.setdiff1d(  # codes that no patient has
            np.arange(len(added) + len(cohort.patients)), cohort.patients
        )[: len(added)]
        if made is not None:
            added["stratum"] = made.labels
        new = (None, None) if made is None else (made.images, made.labels)
        for name, values in zip(array_names(about.parts), new, strict=True):
            source = np.load(cohort.folder / name, mmap_mode="r")
            with GrowingArray(folder / name, source.shape[1:], source.dtype) as array:
                for start in range(0, len(kept), _BATCH):
                    array.append(source[kept[start : start + _BATCH]])
                if values is not None:
                    array.append(values.astype(source.dtype))
        write_about(
            folder,
            About(site=cohort.site, parts=about.parts, set_aside=0),
            np.concatenate([examples[kept], added]),
        )
    except OSError as error:
        raise _fault(folder.parent, error) from error
    return CohortSet(folder=folder, cohorts=(open_cohort(folder),), set_aside={}, notes=(note,))
