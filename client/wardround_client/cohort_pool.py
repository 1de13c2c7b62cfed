"""All examples of a data folder, read and decoded once, before they are grouped by site.

n = examples.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.cohort_files import GrowingArray
from wardround_client.progress import READING, Progress, unwatched
from wardround_client.sources import RawRecord, SetAside, Source
from wardround_client.split import patient_code
from wardround_shared.errors import CohortError, UnreadableError
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import Study


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Examples of all sites in the order of reading.

    Attributes:
        parts: npy files [n, ...], one a part of an example.
        keys: where each example stands, for messages.
        targets: npy file [n, ...] of what is to be told of each example.
        strata: group of each example, int64 [n].
        patients: patient codes, int64 [n].
    """

    parts: tuple[Path, ...]
    keys: tuple[str, ...]
    sites: tuple[str | None, ...]
    targets: Path | None
    strata: NDArray[np.int64]
    patients: NDArray[np.int64]
    aside: tuple[SetAside, ...]


def read_pool(
    study: Study, source: Source, recipe: Recipe, folder: Path, progress: Progress = unwatched
) -> Pool:
    """Decode every record into npy files in a new folder.

    Raises:
        CohortError: two examples differ in shape.
        DataError: the data is not as the study says.
        OSError: the files cannot be written.
    """
    folder.mkdir(mode=0o700)
    with ExitStack() as stack:
        writer = _Writer(folder, stack)
        kept, aside = [], []
        for read, record in enumerate(source.records(), start=1):
            progress(READING, read, 0)
            outcome = record if isinstance(record, SetAside) else writer.add(record, recipe)
            if isinstance(outcome, SetAside):
                aside.append(outcome)
            else:
                kept.append(outcome)
    everyone = {example.patient for example in kept}
    codes = {patient: patient_code(study.study.name, patient) for patient in everyone}
    return Pool(
        parts=tuple(array.path for array in writer.arrays),
        keys=tuple(example.key for example in kept),
        sites=tuple(example.site for example in kept),
        targets=writer.targets.path if writer.targets else None,
        strata=np.array([example.stratum for example in kept], dtype=np.int64),
        patients=np.array([codes[example.patient] for example in kept], dtype=np.int64),
        aside=tuple(aside),
    )


def at_one_site(pool: Pool, site: str) -> Pool:
    """The pool with everything in it, used or set aside, at one site."""
    return replace(
        pool,
        sites=(site,) * len(pool.keys),
        aside=tuple(replace(case, site=site) for case in pool.aside),
    )


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """What is remembered of a record whose arrays are on disk."""

    key: str
    patient: str
    site: str | None
    stratum: int


class _Writer:
    """Decodes records and appends them to one growing file a part."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.arrays: tuple[GrowingArray, ...] = ()
        self.targets: GrowingArray | None = None

    def add(self, record: RawRecord, recipe: Recipe) -> _Kept | SetAside:
        """Decode and write one record; one that cannot be decoded is set aside."""
        try:
            parts = recipe.decode(record.main, record.static, sampling_rate=record.sampling_rate)
            target = recipe.decode_target(record.target)
        except UnreadableError as error:
            return SetAside(key=record.key, site=record.site, reason=str(error).rstrip("."))
        self._append(record.key, parts, target)
        return _Kept(
            key=record.key, patient=record.patient, site=record.site, stratum=record.stratum
        )

    def _append(self, key: str, parts: Sequence[NDArray[Any]], target: NDArray[Any]) -> None:
        if self.targets is None:
            self.arrays = tuple(self._new(f"part-{i}.npy", part) for i, part in enumerate(parts))
            self.targets = self._new("targets.npy", target)
        for array, part in zip((*self.arrays, self.targets), (*parts, target), strict=True):
            if part.shape != array.shape:
                raise CohortError(
                    f"{key}: this example has shape {part.shape}, the earlier ones {array.shape}; "
                    "add a resize, resample or crop step to the study."
                )
            array.append(part[None])

    def _new(self, name: str, like: NDArray[Any]) -> GrowingArray:
        return self._stack.enter_context(GrowingArray(self._folder / name, like.shape, like.dtype))


# --- what must hold --------------------------------------------------------------------------


def require_examples(pool: Pool) -> None:
    """Refuse a cohort of nobody.

    Raises:
        CohortError: no example is left.
    """
    if pool.keys:
        return
    if not pool.aside:
        raise CohortError("There is no example in the data; check data.where and the tables.")
    raise CohortError(
        f"No example is left: {len(pool.aside)} were set aside, most often because "
        f"{_most_often(pool.aside)}."
    )


def require_share(pool: Pool, share: float) -> None:
    """Refuse a cohort with too many set aside, at a site or overall.

    The number allowed is rounded up to a whole example: otherwise one damaged file would stop
    every site of fewer than twenty. A share of 0 allows none.

    Raises:
        CohortError: naming where, how many, and the most frequent reason.
    """
    kept, lost = Counter(pool.sites), Counter(a.site for a in pool.aside)
    groups = [("the data", len(pool.keys), [*pool.aside])]
    groups += [
        (f"site {site}", kept[site], [a for a in pool.aside if a.site == site])
        for site in lost
        if site is not None
    ]
    for place, usable, aside in groups:
        total = usable + len(aside)
        if len(aside) > ceil(round(share * total, 6)):
            raise CohortError(
                f"{place}: {len(aside)} of {total} examples cannot be used, most often because "
                f"{_most_often(aside)}; that is more than data.unreadable-share = {share:g}."
            )


def _most_often(aside: Iterable[SetAside]) -> str:
    ((reason, count),) = Counter(a.reason for a in aside).most_common(1)
    return f"{reason} ({count} times)"


def require_one_site(pool: Pool) -> None:
    """Refuse a patient in two sites: training at both would spend the patient's privacy twice.

    Raises:
        CohortError: naming how many and where, not who.
    """
    first: dict[int, int] = {}
    twice: dict[int, tuple[str, str]] = {}
    for row, patient in enumerate(pool.patients.tolist()):
        other = first.setdefault(patient, row)
        if pool.sites[other] != pool.sites[row]:
            twice.setdefault(patient, (pool.keys[other], pool.keys[row]))
    if twice:
        one, other_one = next(iter(twice.values()))
        raise CohortError(
            f"patients in two sites: {len(twice)}, for example at {one} and {other_one}; "
            "leave such rows out with data.where or correct the site."
        )
