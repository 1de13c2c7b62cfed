"""Cohorts: the frozen, patient-keyed examples of each site, decoded once and memory-mapped.

Layout: `cache/<key>/<site>/` holds a cohort's files (cohort_files.py) and `set-aside.csv`;
`cache/<key>/cohorts.json` is written last. All of it stays at the site; folders have mode 0700.
n = examples.
"""

import csv
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wardround_client.cohort_files import (
    EXAMPLE,
    About,
    array_names,
    copy_rows,
    folder_name,
    read_about,
    sizes,
    write_about,
)
from wardround_client.cohort_pool import (
    Pool,
    at_one_site,
    read_pool,
    require_examples,
    require_one_site,
    require_share,
)
from wardround_client.progress import Progress, unwatched
from wardround_client.sources import SetAside, Source, open_source
from wardround_client.split import in_validation, with_both_sides
from wardround_shared.errors import DataError
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import IndexedData, Study

NO_SITE = "(no site)"
# Raise it with any change of what is written: caches are kept by it.
_LAYOUT = 3


class Partition(Protocol):
    """Deals examples to virtual sites, in simulations only.

    All examples of one patient go to one site, whatever the order of the rows.
    """

    @property
    def sites(self) -> int:
        """Number of virtual sites."""
        ...

    @property
    def description(self) -> str:
        """Everything that the result depends on besides the examples; part of the cache key."""
        ...

    def __call__(
        self,
        strata: NDArray[np.int64],
        patients: NDArray[np.int64],
        validation: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """Groups, patient codes and split [n] -> number of the site of each example [n]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Decoded examples of one site.

    Attributes:
        arrays: [n, ...] each, memory-mapped copy-on-write.
        targets: [n, ...], what is to be told of each example, memory-mapped copy-on-write.
        patients: int64 [n]; equal exactly for examples of one patient, the same in any partition.
        train: numbers of the training examples, ascending.
        validation: numbers of the validation examples; no patient is on both sides.
        set_aside: examples of this site that could not be used.
    """

    folder: Path
    site: str
    arrays: tuple[NDArray[Any], ...]
    targets: NDArray[Any]
    patients: NDArray[np.int64]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    set_aside: int
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CohortSet:
    """All cohorts of a data folder, by site name.

    Attributes:
        set_aside: counts by site (`NO_SITE` where it is unknown or dealt by a partition) and
            reason; each single case stands in `set-aside.csv` in the folder.
        notes: what a person should know, of the data as a whole and of each site.
    """

    folder: Path
    cohorts: tuple[Cohort, ...]
    set_aside: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...]


def open_cohort(folder: Path) -> Cohort:
    """Open a cohort that was built before; a worker process needs nothing but its folder.

    Raises:
        DataError: it is not there or damaged.
    """
    try:
        about, examples = read_about(folder)
        *arrays, targets = (
            np.load(folder / name, mmap_mode="c", allow_pickle=False)
            for name in array_names(about.parts)
        )
        if {len(array) for array in (*arrays, targets)} != {len(examples)}:
            raise DataError(f"{folder}: the cached cohort is damaged.")
        return Cohort(
            folder=folder,
            site=about.site,
            arrays=tuple(arrays),
            targets=targets,
            patients=examples["patient"].copy(),
            train=np.flatnonzero(~examples["validation"]),
            validation=np.flatnonzero(examples["validation"]),
            set_aside=about.set_aside,
            notes=tuple(about.notes),
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(f"{folder}: the cached cohort cannot be read.") from error


def kept_cohorts(folder: Path) -> CohortSet | None:
    """Cohorts that were built in this folder of a cache; None if they are not there or damaged."""
    if not folder.is_dir():
        return None
    try:
        return _open_all(folder)
    except DataError:
        return None


def build_cohorts(
    study: Study,
    folder: Path,
    *,
    cache: Path,
    partition: Partition | None = None,
    hospital: str | None = None,
    burned_in: bool = False,
    progress: Progress = unwatched,
) -> CohortSet:
    """Read and decode the data once, group it by site, and keep the result.

    A second call with the same study, files and partition opens no patient file. Without a
    partition sites are those of the study's site key, or one site if there is no key.

    Args:
        study: as it is.
        folder: data folder.
        cache: where cohorts are kept; made if need be.
        partition: deals the examples to virtual sites instead.
        hospital: name of the one site that all the data belong to, whatever site key the study
            has for simulations: for a site that opens its own data.
        burned_in: whether images whose header says that text is burned in may be read.
        progress: is told of each record that was read.

    Raises:
        CohortError: no example is left, too many were set aside, a label is unknown, a patient
            is in two sites, or the examples differ in shape.
        DataError: the data is not as the study says, or the cache cannot be written.
        StudyError: the study is impossible.
    """
    if hospital is not None:
        study = _without_site_key(study)
    source, recipe = open_source(study, folder, burned_in=burned_in), Recipe(study)
    target = cache / _key(study, source, recipe, partition, hospital, burned_in=burned_in)
    kept = kept_cohorts(target)
    if kept is not None:
        return kept
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=cache))
        try:
            _build(study, source, recipe, partition, building, hospital=hospital, progress=progress)
            _put_in_place(building, target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise DataError(_cache_fault(cache, error)) from error
    return _open_all(target)


# --- the cache -------------------------------------------------------------------------------


def _without_site_key(study: Study) -> Study:
    if not isinstance(study.data, IndexedData):
        return study
    return study.model_copy(update={"data": study.data.model_copy(update={"site": None})})


def _key(
    study: Study,
    source: Source,
    recipe: Recipe,
    partition: Partition | None,
    hospital: str | None,
    *,
    burned_in: bool,
) -> str:
    data = study.data.model_dump(mode="json", by_alias=True)
    content = {
        "layout": _LAYOUT,
        "study": study.study.name,
        "task": study.study.task,
        "classes": study.study.classes,
        "data": data,
        "recipe": recipe.cache_key,
        "files": source.fingerprint(),
        "partition": partition.description if partition else None,
    }
    if hospital is not None:
        content["hospital"] = hospital
    if burned_in:
        content["burned-in"] = True
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _open_all(folder: Path) -> CohortSet:
    try:
        about = json.loads((folder / "cohorts.json").read_text(encoding="utf-8"))
        for name, files in about["sites"].items():
            if sizes(folder / name, files) != files:
                raise DataError(f"{folder}: the cached cohorts are damaged.")
        return CohortSet(
            folder=folder,
            cohorts=tuple(open_cohort(folder / name) for name in about["sites"]),
            set_aside=about["set_aside"],
            notes=tuple(about["notes"]),
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{folder}: the cached cohorts cannot be read.") from error


def _put_in_place(building: Path, target: Path) -> None:
    """Rename; whatever another process has finished meanwhile is as good."""
    if target.is_dir() and kept_cohorts(target) is None:
        shutil.rmtree(target)
    try:
        building.rename(target)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise


def _cache_fault(cache: Path, error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"{cache}: the disk is full; free some space or keep the cache elsewhere."
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"{cache}: the cohort cache cannot be written ({reason})."


# --- building --------------------------------------------------------------------------------


def _build(
    study: Study,
    source: Source,
    recipe: Recipe,
    partition: Partition | None,
    target: Path,
    *,
    hospital: str | None,
    progress: Progress,
) -> None:
    """Decode everything into one pool, then deal the pool to the sites' folders."""
    pool = read_pool(study, source, recipe, target / ".pool", progress)
    if hospital is not None:
        pool = at_one_site(pool, hospital)
    require_examples(pool)
    require_share(pool, study.data.unreadable_share)
    examples = np.empty(len(pool.strata), dtype=EXAMPLE)
    examples["stratum"], examples["patient"] = pool.strata, pool.patients
    examples["validation"] = in_validation(pool.patients, study.data.validation_fraction)
    if partition is None:
        groups, aside, dealt = _sites_of_data(pool, examples)
    else:
        groups, aside, dealt = _virtual_sites(pool, examples, partition)
    notes = [*source.notes(), *dealt]
    about: dict[str, dict[str, int]] = {}
    for site, rows in groups.items():
        site_notes = _notes(site, examples[rows], study)
        notes += site_notes
        about[folder_name(site)] = _write_site(
            target / folder_name(site),
            site=site,
            arrays=(*pool.parts, *([pool.targets] if pool.targets else [])),
            parts=len(pool.parts),
            rows=rows,
            examples=examples[rows],
            aside=aside.get(site, []),
            notes=site_notes,
        )
    _list_set_aside(target / "set-aside.csv", pool.aside)
    shutil.rmtree(target / ".pool")
    counts = {site: Counter(a.reason for a in cases) for site, cases in aside.items()}
    content = {"sites": about, "set_aside": counts, "notes": notes}
    (target / "cohorts.json").write_text(json.dumps(content), encoding="utf-8")


# --- sites -----------------------------------------------------------------------------------

# Rows of the pool by site, what was set aside by site, and notes.
_Dealt = tuple[dict[str, NDArray[np.int64]], dict[str, list[SetAside]], list[str]]


def _sites_of_data(pool: Pool, examples: NDArray[Any]) -> _Dealt:
    """Each example at its own hospital; no site without somebody on either side of the split."""
    require_one_site(pool)
    names = ["site-1" if site is None else site for site in pool.sites]
    sites, number = np.unique(np.asarray(names), return_inverse=True)
    groups = {str(site): np.flatnonzero(number == i) for i, site in enumerate(sites)}
    for rows in groups.values():
        there = examples[rows]
        examples["validation"][rows] = with_both_sides(there["patient"], there["validation"])
    aside = _by_site(pool.aside, names[0] if None in pool.sites else NO_SITE)
    lost = sorted(set(aside) - set(groups) - {NO_SITE})
    return groups, aside, [f"site {site} has no usable example and is left out." for site in lost]


def _virtual_sites(pool: Pool, examples: NDArray[Any], partition: Partition) -> _Dealt:
    """Each example where the partition deals it; the split is that of the data as a whole."""
    examples["validation"] = with_both_sides(examples["patient"], examples["validation"])
    number = partition(pool.strata, pool.patients, examples["validation"].copy())
    width = len(str(partition.sites))
    names = [f"site-{i + 1:0{width}d}" for i in range(partition.sites)]
    groups = {name: np.flatnonzero(number == i) for i, name in enumerate(names)}
    filled = {name: rows for name, rows in groups.items() if len(rows)}
    aside = {NO_SITE: [*pool.aside]} if pool.aside else {}
    empty = [name for name in names if name not in filled]
    return filled, aside, [f"{name} was dealt no example and is left out." for name in empty]


def _by_site(aside: Iterable[SetAside], otherwise: str) -> dict[str, list[SetAside]]:
    by_site: dict[str, list[SetAside]] = {}
    for case in aside:
        by_site.setdefault(case.site or otherwise, []).append(case)
    return by_site


def _notes(site: str, examples: NDArray[Any], study: Study) -> tuple[str, ...]:
    notes = []
    one_class = study.study.kind == "classification"
    if one_class and len(there := np.unique(examples["stratum"])) == 1:
        notes.append(f"site {site} has one class only: {study.study.classes[there[0]]}.")
    if not examples["validation"].any():
        notes.append(f"site {site} has nobody to validate on.")
    if examples["validation"].all():
        notes.append(f"site {site} has nobody to train on.")
    return tuple(notes)


def _write_site(
    folder: Path,
    *,
    site: str,
    arrays: Sequence[Path],
    parts: int,
    rows: NDArray[np.int64],
    examples: NDArray[Any],
    aside: Sequence[SetAside],
    notes: tuple[str, ...],
) -> dict[str, int]:
    """Write one site's folder; returns the size of each file."""
    folder.mkdir(mode=0o700)
    for array in arrays:
        copy_rows(np.load(array, mmap_mode="r"), rows, folder / array.name)
    about = About(site=site, parts=parts, set_aside=len(aside), notes=notes)
    write_about(folder, about, examples)
    _list_set_aside(folder / "set-aside.csv", aside)
    return sizes(folder, [path.name for path in folder.iterdir()])


def _list_set_aside(path: Path, aside: Iterable[SetAside]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["where", "site", "reason"])
        writer.writerows((a.key, a.site or "", a.reason) for a in aside)
