"""Cells of a table: texts that become numbers, categories and keys, or are missing.

n = rows, F = features.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wardround_shared.study import Feature

T = TypeVar("T")

EMPTY = ("",)
"""Nobody's record and no answer, whatever the study says: a row that a join finds no match for has
empty cells, and all such rows would become one patient."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE = re.compile(r"(\d+)\.0+", re.ASCII)


def number(text: str) -> float | None:
    """The finite decimal number that the text is, or None: "nan" and "inf" are no numbers."""
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def canonical(text: str) -> str:
    """One spelling for all texts that mean the same: "63", "63.0" and "6.3e1" become one."""
    if not _NUMBER.fullmatch(text):
        return text
    value = Decimal(text)
    return str(value.normalize()) if value else "0"


def identifier(text: str) -> str:
    """One spelling for a key: "17.0", as programs write whole numbers with gaps, becomes "17".

    Otherwise keys are texts: "007" and "7" may be two patients.
    """
    whole = _WHOLE.fullmatch(text)
    return whole.group(1) if whole else text


def marks(*texts: Iterable[str]) -> frozenset[str]:
    """Canonical forms of the texts that mean "missing" (or anything else one looks up)."""
    return frozenset(canonical(text.strip()) for group in texts for text in group)


def each(texts: Sequence[str], read: Callable[[str], T]) -> list[T]:
    """Apply `read` to every cell, but only once to equal cells."""
    known = {text: read(text) for text in set(texts)}
    return [known[text] for text in texts]


def feature_values(
    columns: Sequence[Sequence[str]], features: Sequence[Feature], missing: Sequence[str]
) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Read feature columns.

    Args:
        columns: cells [F][n], stripped.
        features: how to read each column.
        missing: marks that hold for every column.

    Returns:
        Values [n, F], NaN where missing, a categorical cell as its category's index; and for rows
        with a cell that is neither, the reason.
    """
    rows = len(columns[0]) if columns else 0
    values = np.full((rows, len(features)), np.nan)
    faults: dict[int, str] = {}
    for place, (cells, feature) in enumerate(zip(columns, features, strict=True)):
        read = each(cells, _reader(feature, marks(missing, feature.missing)))
        for row, value in enumerate(read):
            if value is None:
                faults.setdefault(row, _fault(feature))
            else:
                values[row, place] = value
    return values, faults


def _reader(feature: Feature, missing: frozenset[str]) -> Callable[[str], float | None]:
    categories = {canonical(text): float(i) for i, text in enumerate(feature.categories)}
    values = {canonical(text.strip()): value for text, value in feature.values.items()}

    def read(text: str) -> float | None:
        if canonical(text) in missing:
            return math.nan
        if feature.kind == "categorical":
            return categories.get(canonical(text))
        return values[canonical(text)] if canonical(text) in values else number(text)

    return read


def _fault(feature: Feature) -> str:
    if feature.kind == "categorical":
        return f"column {feature.column} holds none of its categories"
    return f"column {feature.column} holds no finite number"
