"""Folds by patient, of the training patients alone.

Which fold a patient is in follows from the patient's own code and the seed, like the split into
training and validation (`split.py` of the site): all examples of a patient are in one fold,
whatever the order of rows and whoever else is there. n = examples.
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround_client.cohort import Cohort, CohortSet, open_cohort
from wardround_client.cohort_files import (
    array_names,
    copy_rows,
    read_about,
    write_about,
    written_beside,
)
from wardround_shared.errors import CohortError, DataError


def fold_of(codes: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each example [n], from 0 on, by its patient's code."""
    everyone, of_example = np.unique(codes, return_inverse=True)
    drawn = [_fold(code, folds, seed) for code in everyone.tolist()]
    return np.array(drawn, dtype=np.int64)[of_example]


def fold_cohorts(cohorts: CohortSet, folds: int, seed: int) -> tuple[CohortSet, ...]:
    """One set of cohorts a fold: it validates, and the other folds train.

    They lie in the cache beside the cohorts that they are made from, and share one copy of the
    training examples.

    Raises:
        CohortError: a fold has nobody to validate on, or everybody.
        DataError: the cache cannot be written.
    """
    folder = cohorts.folder / f".folds-{folds}-{seed}"
    if not folder.is_dir():
        try:
            _write(cohorts, folder, folds, seed)
        except OSError as error:
            raise DataError(
                f"{folder}: the folds cannot be written ({os.strerror(error.errno or 0)}); free "
                "some space or keep the cache elsewhere."
            ) from error
    made = tuple(_open(cohorts, folder / str(fold)) for fold in range(folds))
    for one in made:
        validating = sum(len(cohort.validation) for cohort in one.cohorts)
        training = sum(len(cohort.train) for cohort in one.cohorts)
        if not validating or not training:
            raise CohortError(
                f"--folds {folds}: a fold has no patient to "
                f"{'train' if validating else 'validate'} on; ask for fewer folds."
            )
    return made


def _open(cohorts: CohortSet, folder: Path) -> CohortSet:
    there = [folder / cohort.folder.name for cohort in cohorts.cohorts if len(cohort.train)]
    opened = tuple(open_cohort(one) for one in there)
    return CohortSet(folder=folder, cohorts=opened, set_aside={}, notes=())


def _fold(code: int, folds: int, seed: int) -> int:
    digest = hashlib.sha256(f"wardround-fold\0{seed}\0{code}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % folds


def _write(cohorts: CohortSet, folder: Path, folds: int, seed: int) -> None:
    with written_beside(folder, prefix=".folding-") as building:
        for cohort in cohorts.cohorts:
            if len(cohort.train):
                _write_site(cohort, building, folds, seed)


def _write_site(cohort: Cohort, building: Path, folds: int, seed: int) -> None:
    """One site's training examples in the first fold's folder, and linked from the others'."""
    number = fold_of(cohort.patients[cohort.train], folds, seed)
    about, examples = read_about(cohort.folder)
    examples = examples[cohort.train]
    for fold in range(folds):
        folder = building / str(fold) / cohort.folder.name
        folder.mkdir(mode=0o700, parents=True)
        for name in array_names(about.parts):
            if fold == 0:
                copy_rows(np.load(cohort.folder / name, mmap_mode="r"), cohort.train, folder / name)
            else:
                os.link(building / "0" / cohort.folder.name / name, folder / name)
        examples["validation"] = number == fold
        write_about(folder, replace(about, notes=()), examples)
