"""Array steps for columns: imputation and one-hot encoding.

n = examples, F = columns before a step, G = columns after it, M = numeric columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wardround_shared.preprocessing.fitting import Array, Shape, require_finite
from wardround_shared.study import Feature


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column as it stands between two steps; an indicator is 0 or 1 and stays that."""

    name: str
    kind: Literal["numeric", "categorical", "indicator"] = "numeric"
    categories: int = 0


Columns = tuple[Column, ...]


def columns_of(features: Sequence[Feature]) -> Columns:
    """The columns of a study's features, before any step."""
    return tuple(Column(name=f.column, kind=f.kind, categories=len(f.categories)) for f in features)


def numeric_positions(columns: Columns) -> NDArray[np.intp]:
    """Positions [M] of the numeric columns."""
    return np.array([i for i, c in enumerate(columns) if c.kind == "numeric"], dtype=np.intp)


class Imputation:
    """Missing numeric cells get the column's mean over all sites, and a column says where.

    Indicator columns come last, one per numeric column whether or not a cell of it is missing,
    so that the width never depends on anyone's data. Categorical cells stay missing until
    one-hot encoding makes an all-zero row of them.
    """

    name = "impute"
    needs_sums = True

    def __init__(self, part: int, columns: Columns, *, indicator: bool) -> None:
        self.part = part
        self._numeric = numeric_positions(columns)
        self._indicator = indicator
        marks = [
            replace(columns[i], name=f"{columns[i].name}, missing", kind="indicator")
            for i in self._numeric
        ]
        self.columns: Columns = (*columns, *marks) if indicator else columns

    def length(self, shape: Shape) -> int:
        """Number of sums: a count and a sum per numeric column."""
        del shape
        return 2 * len(self._numeric)

    def sums(self, table: Array) -> NDArray[np.float64]:
        """[count [M], sum [M]] over the cells that are there."""
        numeric = table[:, self._numeric]
        there = ~np.isnan(numeric)
        total = np.where(there, numeric, 0.0).sum(axis=0)
        return np.concatenate([there.sum(axis=0).astype(np.float64), total])

    def fit(self, sums: NDArray[np.float64]) -> dict[str, Array]:
        """Means [M]; a column that is missing everywhere gets 0."""
        count, total = require_finite(sums, self.name).reshape(2, -1)
        return {"mean": total / np.maximum(count, 1.0)}

    def apply(self, table: Array, fitted: Mapping[str, Array]) -> Array:
        """[n, F] -> [n, G]."""
        missing = np.isnan(table[:, self._numeric])
        filled = table.astype(np.float64)
        filled[:, self._numeric] = np.where(missing, fitted["mean"], filled[:, self._numeric])
        return np.concatenate([filled, missing], axis=1) if self._indicator else filled

    def shape(self, shape: Shape) -> Shape:
        """(F,) -> (G,)."""
        return (shape[0] + len(self._numeric),) if self._indicator else shape


class OneHotEncoding:
    """Each categorical column becomes one 0/1 column per category, in its place.

    A missing cell becomes zeros throughout, which a first linear layer tells apart from every
    category.
    """

    name = "one-hot"
    needs_sums = False

    def __init__(self, part: int, columns: Columns) -> None:
        self.part = part
        self._before = columns
        self.columns: Columns = tuple(after for c in columns for after in _spread(c))

    def length(self, shape: Shape) -> int:
        """No sums are needed."""
        del shape
        return 0

    def sums(self, table: Array) -> NDArray[np.float64]:
        """No sums are needed."""
        del table
        return np.zeros(0)

    def fit(self, sums: NDArray[np.float64]) -> dict[str, Array]:
        """Nothing is fitted."""
        del sums
        return {}

    def apply(self, table: Array, fitted: Mapping[str, Array]) -> Array:
        """[n, F] -> [n, G]."""
        del fitted
        blocks = [
            table[:, i, None] == np.arange(c.categories)
            if c.kind == "categorical"
            else table[:, i, None]
            for i, c in enumerate(self._before)
        ]
        return np.concatenate(blocks, axis=1, dtype=np.float64)

    def shape(self, shape: Shape) -> Shape:
        """(F,) -> (G,)."""
        return (shape[0] - len(self._before) + len(self.columns),)


def _spread(column: Column) -> Columns:
    if column.kind != "categorical":
        return (column,)
    return tuple(
        Column(name=f"{column.name}, category {k}", kind="indicator")
        for k in range(column.categories)
    )
