"""The data of all sites in one place, which only a simulation can have. n = examples.

The files are those of a cohort (`cohort_files.py` of the site says which), in the cache beside the
cohorts that they are copied from, so that they are mapped like any other and take no memory.
"""

import os
from pathlib import Path

import numpy as np

from wardround_client.cohort import CohortSet, open_cohort
from wardround_client.cohort_files import (
    About,
    array_names,
    join,
    read_about,
    write_about,
    written_beside,
)
from wardround_shared.errors import DataError

EVERYBODY = "all sites"
"""Name of the one site that has everybody's data."""

_FOLDER = ".pooled"  # no site's folder begins with a dot


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
    with written_beside(folder, prefix=".pooling-") as building:
        parts = len(cohorts.cohorts[0].arrays)
        for name in array_names(parts):
            join([cohort.folder / name for cohort in cohorts.cohorts], building / name)
        sites = [cohort.site for cohort in cohorts.cohorts]
        about = About(
            site=sites[0] if len(sites) == 1 else EVERYBODY,
            parts=parts,
            set_aside=sum(cohort.set_aside for cohort in cohorts.cohorts),
        )
        examples = [read_about(cohort.folder)[1] for cohort in cohorts.cohorts]
        write_about(building, about, np.concatenate(examples))
