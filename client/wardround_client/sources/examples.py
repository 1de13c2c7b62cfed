"""From the index to the examples of a study: which rows, whose, from where, and what they are."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from wardround_client.sources.cells import canonical, each, identifier, marks
from wardround_client.sources.index import Cells, Index
from wardround_client.sources.records import SetAside
from wardround_shared.errors import CohortError, DataError, StudyError
from wardround_shared.study import IndexedData, SiteKey, Study

# Nobody's record and no answer, whatever the study says: a row that a join finds no match for has
# empty cells, and all such rows would become one patient.
_EMPTY = ("",)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row of the index that is an example of the study; `row` is its number."""

    row: int
    key: str
    patient: str
    site: str | None
    label: int

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
    labels = _labels(index, rows, study)
    missing = marks(data.missing, _EMPTY)
    examples: list[Example] = []
    aside = _broken(index, data)
    for row, label in zip(rows, labels, strict=True):
        key, site, patient = index.positions[row], sites[row], patients[row]
        if reason := _reason(site, label, patient, missing):
            aside.append(SetAside(key=key, site=site or None, reason=reason))
        elif label is not None:
            examples.append(Example(row=row, key=key, patient=patient, site=site, label=label))
    kept = _thin_out(examples, data.max_per_patient)
    if len(kept) < len(examples):
        left_out = len(examples) - len(kept)
        notes = (*notes, f"data.max-per-patient leaves out {left_out} examples.")
    empty = _empty_sites(index, data, {sites[row] for row in rows})
    return Selection(examples=kept, set_aside=tuple(aside), notes=(*index.notes, *notes, *empty))


def _reason(
    site: str | None, label: int | None, patient: str, missing: frozenset[str]
) -> str | None:
    if site is not None and canonical(site) in missing:
        return "no site"
    if canonical(patient) in missing:
        return "no patient key"
    return "no label" if label is None else None


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
            reason="the row has too few or too many cells",
        )
        for file, position in index.broken
    ]


# --- label -----------------------------------------------------------------------------------


def _labels(index: Index, rows: Sequence[int], study: Study) -> list[int | None]:
    """Class of each of the rows, or None where the label is missing."""
    data, classes = section(study), study.study.classes
    missing = marks(data.missing, _EMPTY)
    meant = _containing(study) if data.label.containing else _equal(study)
    cells = index.column(data.label.column)
    otherwise = data.label.otherwise
    labels: list[int | None] = []
    for row in rows:
        text = cells[row]
        found = meant(text)
        if not found and canonical(text) in missing:
            labels.append(None)
            continue
        if not found and otherwise is not None:
            found = {classes.index(otherwise)}
        if len(found) != 1:
            means = " and ".join(classes[number] for number in sorted(found))
            fault = (
                f"means {means} by data.label.containing; change the texts there"
                if found
                else f"is none of the study's classes ({', '.join(classes)}); name it in "
                "data.label.values"
            )
            raise CohortError(
                f"{index.positions[row]}: column {data.label.column} holds {text!r}, which "
                f"{fault}, or leave such rows out with data.where."
            )
        labels.append(*found)
    return labels


def _containing(study: Study) -> Callable[[str], set[int]]:
    """The classes of which a text stands in a cell."""
    texts = study.data.label.containing
    numbered = [(study.study.classes.index(name), texts[name]) for name in texts]
    return lambda cell: {number for number, ones in numbered if any(one in cell for one in ones)}


def _equal(study: Study) -> Callable[[str], set[int]]:
    """The class that a cell means as a whole."""
    meaning = _meaning(study)

    def meant(cell: str) -> set[int]:
        number = meaning.get(canonical(cell))
        return set() if number is None else {number}

    return meant


def _meaning(study: Study) -> dict[str, int]:
    """Class of each label text; a class without texts of its own is named by its own name."""
    meaning: dict[str, int] = {}
    for number, name in enumerate(study.study.classes):
        if name == study.data.label.otherwise:
            continue
        for text in study.data.label.values.get(name, (name,)):
            if not text.strip():
                raise StudyError(
                    f"data.label.values: an empty cell is a missing label and cannot mean {name}; "
                    "write something into these cells, or leave the text out."
                )
            other = meaning.setdefault(canonical(text.strip()), number)
            if other != number:
                raise StudyError(
                    f"data.label.values: {text!r} means both {study.study.classes[other]} "
                    f"and {name}."
                )
    return meaning


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
