"""The data of all sites in one place, which only a simulation can have. n = examples.

The files are those of a cohort (`cohort.py` of the site says which), in the cache beside the
cohorts that they are copied from, so that they are mapped like any other and take no memory.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from wardround_client.cohort import CohortSet, open_cohort
from wardround_client.cohort_files import GrowingArray
from wardround_shared.errors import DataError

EVERYBODY = "all sites"
"""Name of the one site that has everybody's data."""

_FOLDER = ".pooled"  # no site's folder begins with a dot
_CHUNK = 1024  # examples copied at a time


def pooled(cohorts: CohortSet) -> CohortSet:
    """All cohorts as one, each example on the side of the split where it was.

    Raises:
        DataError: the cache cannot be written.
    """
    folder = cohorts.folder / _FOLDER
    if not folder.is_dir():
        try:
            _write(cohorts, folder)
        except OSError as error:
            raise DataError(
                f"{folder}: the data of all sites cannot be laid together "
                f"({os.strerror(error.errno or 0)}); free some space or keep the cache elsewhere."
            ) from error
    note = "all data lay in one place: this is no federated run."
    return CohortSet(folder=folder, cohorts=(open_cohort(folder),), set_aside={}, notes=(note,))


def only(cohorts: CohortSet, site: str) -> CohortSet:
    """The cohort of one site, which trains alone."""
    cohort = next(one for one in cohorts.cohorts if one.site == site)
    note = f"{site} trained alone: this is no federated run."
    return CohortSet(folder=cohorts.folder, cohorts=(cohort,), set_aside={}, notes=(note,))


def _write(cohorts: CohortSet, folder: Path) -> None:
    """Write beside the final place, then rename: another process may do the same."""
    building = Path(tempfile.mkdtemp(prefix=".pooling-", dir=cohorts.folder))
    try:
        parts = len(cohorts.cohorts[0].arrays)
        for name in (*(f"part-{part}.npy" for part in range(parts)), "targets.npy", "examples.npy"):
            _join([cohort.folder / name for cohort in cohorts.cohorts], building / name)
        sites = [cohort.site for cohort in cohorts.cohorts]
        about = {
            "site": sites[0] if len(sites) == 1 else EVERYBODY,
            "parts": parts,
            "set_aside": sum(cohort.set_aside for cohort in cohorts.cohorts),
            "notes": [],
        }
        (building / "cohort.json").write_text(json.dumps(about), encoding="utf-8")
        if not folder.is_dir():
            building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _join(sources: list[Path], target: Path) -> None:
    arrays = [np.load(source, mmap_mode="r") for source in sources]
    with GrowingArray(target, arrays[0].shape[1:], arrays[0].dtype) as joined:
        for array in arrays:
            for start in range(0, len(array), _CHUNK):
                joined.append(array[start : start + _CHUNK])
