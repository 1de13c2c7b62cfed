"""From the index to the examples of a study: which rows, whose, from where, and what they are."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.cells import EMPTY, canonical, each, identifier, marks
from wardround_client.sources.index import Cells, Index
from wardround_client.sources.records import RawRecord, SetAside
from wardround_client.sources.targets import Target, read_targets
from wardround_shared.errors import DataError, StudyError
from wardround_shared.study import IndexedData, SiteKey, Study


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row of the index that is an example of the study; `row` is its number."""

    row: int
    key: str
    patient: str
    site: str | None
    target: Target

    def record(
        self,
        main: NDArray[Any],
        static: NDArray[np.float64] | None = None,
        *,
        part: str = "",
        sampling_rate: float | None = None,
    ) -> RawRecord:
        """The example with what was read of it, or of the part of it that its key goes on with."""
        return RawRecord(
            key=self.key + part,
            patient=self.patient,
            site=self.site,
            stratum=self.target.stratum,
            target=self.target.values,
            main=main,
            static=static,
            sampling_rate=sampling_rate,
        )

    def set_aside(self, reason: str) -> SetAside:
        """The same example, when it turns out that it cannot be used."""
        return SetAside(key=self.key, site=self.site, reason=reason)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The examples in the order of the index, and the rows that cannot be one."""

    examples: tuple[Example, ...]
    set_aside: tuple[SetAside, ...]
    notes: tuple[str, ...]


def fulfilling(
    index: Index, data: IndexedData, columns: Sequence[str]
) -> tuple[list[int], tuple[str, ...]]:
    """Rows that fulfil the study's `where` on these columns, and a note on the others.

    Raises:
        DataError: a column is not there.
    """
    rows = list(range(len(index)))
    for column in columns:
        wanted = marks(data.where[column])
        fits = [canonical(text) in wanted for text in index.column(column)]
        rows = [row for row in rows if fits[row]]
    left_out = len(index) - len(rows)
    if not left_out:
        return rows, ()
    return rows, (f"data.where ({', '.join(columns)}) leaves out {left_out} of {len(index)} rows.",)


def section(study: Study) -> IndexedData:
    """The study's data section; phantoms have been replaced by the files that they are."""
    assert isinstance(study.data, IndexedData)
    return study.data


def select(index: Index, study: Study) -> Selection:
    """Apply `where`, read label, patient and site, and thin out by `max-per-patient`.

    A row without one of the three is set aside; an empty cell is always "without", also where
    `data.missing` does not name it.

    Raises:
        CohortError: a label is none of the study's classes.
        DataError: a column is not there, or a file has no site.
        StudyError: the site pattern is no regular expression with a group, or a label's text
            means two classes or is empty.
    """
    data = section(study)
    rows, notes = fulfilling(index, data, [*data.where])
    sites, patients = site_of_rows(index, data), patient_of_rows(index, data)
    targets = read_targets(index, rows, study)
    missing = marks(data.missing, EMPTY)
    examples: list[Example] = []
    aside = _broken(index, data)
    for row, target in zip(rows, targets, strict=True):
        key, site, patient = index.positions[row], sites[row], patients[row]
        if reason := _reason(site, patient, missing):
            aside.append(SetAside(key=key, site=site or None, reason=reason))
        elif isinstance(target, str):
            aside.append(SetAside(key=key, site=site or None, reason=target))
        else:
            examples.append(Example(row=row, key=key, patient=patient, site=site, target=target))
    kept = _thin_out(examples, data.max_per_patient)
    if len(kept) < len(examples):
        left_out = len(examples) - len(kept)
        notes = (*notes, f"data.max-per-patient leaves out {left_out} examples.")
    empty = _empty_sites(index, data, {sites[row] for row in rows})
    return Selection(examples=kept, set_aside=tuple(aside), notes=(*index.notes, *notes, *empty))


def _reason(site: str | None, patient: str, missing: frozenset[str]) -> str | None:
    if site is not None and canonical(site) in missing:
        return "no site"
    if canonical(patient) in missing:
        return "no patient key"
    return None


# --- site and patient ------------------------------------------------------------------------


def patient_of_rows(index: Index, data: IndexedData) -> Cells:
    """Patient key of each row; without a patient column each row is a patient of its own."""
    if data.patient is None:
        return index.identities
    return each(index.column(data.patient), identifier)


def site_of_rows(index: Index, data: IndexedData) -> list[str | None]:
    """Hospital of each row, or None throughout where the study names no site key."""
    if data.site is None:
        return [None] * len(index)
    if data.site.column is not None:
        return [*each(index.column(data.site.column), identifier)]
    if data.site.folder:
        return [*each(index.paths, _first_folder)]
    return [_site_of_file(file, data.site) for file in index.origins]


def _site_of_file(file: str, key: SiteKey) -> str:
    try:
        found = re.search(key.file or "", PurePosixPath(file).name)
        site = found.group(1) if found else None
    except (re.error, IndexError) as error:
        raise StudyError(
            f"data.site.file: {key.file!r} is no regular expression with a group in it."
        ) from error
    if not site:
        raise DataError(f"{file}: data.site.file = {key.file!r} finds no site in this name.")
    return site


def _first_folder(path: str) -> str:
    parts = PurePosixPath(path).parts
    if len(parts) < 2:
        raise DataError(f"{path}: with data.site.folder every file has to lie in a folder.")
    return parts[0]


def _empty_sites(index: Index, data: IndexedData, there: set[str | None]) -> list[str]:
    """A note for every site that the files name and that has no example in the study."""
    named = {site for site in site_of_rows(index, data) if site}
    if data.site and data.site.file:
        named |= {_site_of_file(file, data.site) for file in index.files}
    empty = sorted(named - there)
    return [f"site {site} has no example in this study and is left out." for site in empty]


def _broken(index: Index, data: IndexedData) -> list[SetAside]:
    by_file = data.site is not None and data.site.file is not None
    return [
        SetAside(
            key=position,
            site=_site_of_file(file, data.site) if by_file and data.site else None,
            reason=reason,
        )
        for file, position, reason in index.broken
    ]


def _thin_out(examples: Sequence[Example], most: int | None) -> tuple[Example, ...]:
    """At most so many examples of a patient, spread evenly over the patient's own order."""
    counts = Counter(example.patient for example in examples)
    if most is None or not counts or max(counts.values()) <= most:
        return tuple(examples)
    chosen = {
        patient: set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist())
        for patient, count in counts.items()
    }
    seen: Counter[str] = Counter()
    kept = []
    for example in examples:
        if seen[example.patient] in chosen[example.patient]:
            kept.append(example)
        seen[example.patient] += 1
    return tuple(kept)
