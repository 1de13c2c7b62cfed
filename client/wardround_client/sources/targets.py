"""What is to be told of each example, from the columns that the study names. K = findings."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.cells import EMPTY, canonical, marks, number
from wardround_client.sources.index import Index
from wardround_shared.errors import CohortError, StudyError
from wardround_shared.study import IndexedData, Label, Points, SequencesData, Study, Survival


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is to be told of one example; the attributes are those of `RawRecord`."""

    stratum: int
    values: NDArray[Any]


UNKNOWN = Target(stratum=0, values=np.zeros(0))
"""Of an example whose target stands in its files, before they are opened."""


def read_targets(index: Index, rows: Sequence[int], study: Study) -> list[Target | str]:
    """Target of each of the rows, or the reason why it has none.

    Raises:
        CohortError: a label is none of the study's classes, or a time is no number.
        StudyError: a label's text means two classes or is empty.
    """
    data = study.data
    assert isinstance(data, IndexedData)
    missing = marks(data.missing, EMPTY)
    if isinstance(data, SequencesData) or data.mask is not None:
        return [UNKNOWN] * len(rows)  # it is in the files
    if data.points is not None:
        return [*_lesions(index, rows, data.points, missing)]
    if data.survival is None and data.label is None:
        return [UNKNOWN] * len(rows)  # inputs of a trained model (inputs.py)
    if data.survival is not None:
        return [*_survival(index, rows, data.survival, missing)]
    assert data.label is not None  # `check_combinations`
    if study.study.kind == "multilabel-classification":
        return [*_findings(index, rows, study, data.label, missing)]
    return [*_classes(index, rows, study, data.label, missing)]


# --- time to an event ------------------------------------------------------------------------


def _survival(
    index: Index, rows: Sequence[int], survival: Survival, missing: frozenset[str]
) -> Iterator[Target | str]:
    """Float32 [2]: time, and 1 if the event was seen then."""
    times, events = index.column(survival.time), index.column(survival.event)
    occurred = marks(survival.occurred)
    for row in rows:
        if canonical(times[row]) in missing:
            yield "no time"
        elif canonical(events[row]) in missing:
            yield "it is not said whether the event was seen"
        elif (time := number(times[row])) is None:
            raise CohortError(
                f"{index.positions[row]}: column {survival.time} holds {times[row]!r}, which is no "
                "time; name it in data.missing, or leave such rows out with data.where."
            )
        elif time < 0:
            yield "a negative time"
        else:
            seen = int(canonical(events[row]) in occurred)
            yield Target(stratum=seen, values=np.array([time, seen], dtype=np.float32))


# --- lesions ---------------------------------------------------------------------------------


def _lesions(
    index: Index, rows: Sequence[int], points: Points, missing: frozenset[str]
) -> Iterator[Target | str]:
    """Float32 [M, 3]: row, column and radius in pixels, NaN where there are fewer lesions."""
    columns = [index.column(name) for name in (points.row, points.column, points.radius)]
    for row in rows:
        cells = [column[row] for column in columns]
        values = np.full((points.most, 3), np.nan, dtype=np.float32)
        if all(canonical(cell) in missing for cell in cells):
            yield Target(stratum=0, values=values)
            continue
        numbers = [[number(text.strip()) for text in cell.split(";")] for cell in cells]
        if len({len(each) for each in numbers}) > 1 or any(None in each for each in numbers):
            yield "a lesion without a place or a size"
        elif len(numbers[0]) > points.most:
            yield "more lesions than data.points.most"
        else:
            values[: len(numbers[0])] = np.array(numbers, dtype=np.float64).T
            yield Target(stratum=1, values=values)


# --- findings --------------------------------------------------------------------------------


def _findings(
    index: Index, rows: Sequence[int], study: Study, label: Label, missing: frozenset[str]
) -> Iterator[Target | str]:
    """Uint8 [K]: 1 for each finding of which a text stands in the cell."""
    meant, cells = _containing(study, label), index.column(label.column)
    for row in rows:
        found = meant(cells[row])
        if not found and canonical(cells[row]) in missing:
            yield "no label"
            continue
        values = np.zeros(len(study.study.classes), dtype=np.uint8)
        values[[*found]] = 1
        yield Target(stratum=0, values=values)


# --- one class of several --------------------------------------------------------------------


def _classes(
    index: Index, rows: Sequence[int], study: Study, label: Label, missing: frozenset[str]
) -> Iterator[Target | str]:
    """Int64, the number of the class."""
    classes = study.study.classes
    meant = _containing(study, label) if label.containing else _equal(study, label)
    cells = index.column(label.column)
    for row in rows:
        text = cells[row]
        found = meant(text)
        if not found and canonical(text) in missing:
            yield "no label"
            continue
        if not found and label.otherwise is not None:
            found = {classes.index(label.otherwise)}
        if len(found) != 1:
            means = " and ".join(classes[one] for one in sorted(found))
            fault = (
                f"means {means} by data.label.containing; change the texts there"
                if found
                else f"is none of the study's classes ({', '.join(classes)}); name it in "
                "data.label.values"
            )
            raise CohortError(
                f"{index.positions[row]}: column {label.column} holds {text!r}, which "
                f"{fault}, or leave such rows out with data.where."
            )
        (one,) = found
        yield Target(stratum=one, values=np.array(one, dtype=np.int64))


def _containing(study: Study, label: Label) -> Callable[[str], set[int]]:
    """The classes of which a text stands in a cell."""
    texts = label.containing
    numbered = [(study.study.classes.index(name), texts[name]) for name in texts]
    return lambda cell: {number for number, ones in numbered if any(one in cell for one in ones)}


def _equal(study: Study, label: Label) -> Callable[[str], set[int]]:
    """The class that a cell means as a whole."""
    meaning = meanings(study, label)

    def meant(cell: str) -> set[int]:
        found = meaning.get(canonical(cell))
        return set() if found is None else {found}

    return meant


def meanings(study: Study, label: Label) -> dict[str, int]:
    """Class of each label text; a class without texts of its own is named by its own name."""
    meaning: dict[str, int] = {}
    for place, name in enumerate(study.study.classes):
        if name == label.otherwise:
            continue
        for text in label.values.get(name, (name,)):
            if not text.strip():
                raise StudyError(
                    f"data.label.values: an empty cell is a missing label and cannot mean {name}; "
                    "write something into these cells, or leave the text out."
                )
            other = meaning.setdefault(canonical(text.strip()), place)
            if other != place:
                raise StudyError(
                    f"data.label.values: {text!r} means both {study.study.classes[other]} "
                    f"and {name}."
                )
    return meaning
