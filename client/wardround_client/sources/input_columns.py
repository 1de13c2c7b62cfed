"""Columns beside single files: the row of a table that is theirs, or cells that were given."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.index import Index, table_index
from wardround_client.sources.static import read_static
from wardround_client.sources.wfdb import OF_BEATS
from wardround_shared.errors import UnreadableError
from wardround_shared.study import (
    AnyImages,
    RecordingsData,
    StaticFeature,
    Study,
    WfdbData,
)

Beside = Path | Mapping[str, str]
"""A table in which one row names the file or record, or the cells of that row by column."""

_GIVEN = "the columns that were given"


def columns_beside(study: Study) -> tuple[str, ...]:
    """Columns that come from a table, or as cells, beside a file; most studies have none."""
    data = study.data
    if isinstance(data, WfdbData):
        return tuple(_beside_beats(data))
    if isinstance(data, AnyImages | RecordingsData) and data.file is not None:
        return tuple(feature.column for feature in data.static)
    return ()  # of npz files they are arrays


def cells_beside(study: Study, path: Path, columns: Beside | None) -> NDArray[np.float64] | None:
    """The cells [S] of a file's row, compared with the other rows of the table as in training.

    Raises:
        UnreadableError: there is no table, not one row, or the row cannot be used; or of given
            cells one is lacking, or would have to be compared with others.
        DataError: the table lacks a column.
    """
    data = study.data
    if not isinstance(data, AnyImages | RecordingsData) or not data.static:
        return None
    needed = ", ".join(feature.column for feature in data.static)
    if data.file is None:
        raise UnreadableError(
            f"the model takes {needed} beside the image, which the study has in arrays; name an "
            "npz file"
        )
    if columns is None:
        raise UnreadableError(
            f"the model takes {needed} beside the file; name a table that has {data.file} and "
            "these columns with --columns"
        )
    if not isinstance(columns, Path):
        _require_all([feature.column for feature in data.static], columns)
        _require_own(data.static)
        static = read_static(_given(columns, path), data.model_copy(update={"patient": None}))
        return None if static is None else static.of(0)
    compared = any(feature.form != "value" for feature in data.static)
    bare = data.model_copy(update={"join": (), **({} if compared else {"patient": None})})
    table = table_index(bare, columns.parent, [columns])
    row = _own_row(table, data.file, path, columns)
    static = read_static(table, bare)
    return None if static is None else static.of(row)


def row_of(record: Path, data: WfdbData, columns: Beside | None) -> Index:
    """One row: a record's name, and its static columns from the table where there are any.

    Raises:
        UnreadableError: there is no table, or not one row of it is the record's.
        DataError: the table lacks a column.
    """
    needed = _beside_beats(data)
    if not needed:
        return _given({data.record: record.name}, record)
    if columns is None:
        raise UnreadableError(
            f"the model takes {', '.join(needed)} beside the signal; name a table that has "
            f"{data.record} and these columns with --columns"
        )
    if not isinstance(columns, Path):
        _require_all(needed, columns)
        _require_own([feature for feature in data.static if feature.column in needed])
        return _given({**columns, data.record: record.name}, record)
    table = table_index(data, columns.parent, [columns])
    found = table.take([_own_row(table, data.record, record, columns)])
    return dataclasses.replace(
        found,
        columns={**found.columns, data.record: [record.name]},
        identities=[record.name],
        paths=[record.name],
    )


def _beside_beats(data: WfdbData) -> list[str]:
    """Static columns that are not read off the beats themselves."""
    return [f.column for f in data.static if not data.annotator or f.column not in OF_BEATS]


def _given(cells: Mapping[str, str], path: Path) -> Index:
    """An index of one row with these cells."""
    name = [path.name]
    return Index(
        columns={column: [cell.strip()] for column, cell in cells.items()},
        known=(*cells,),
        origins=name,
        positions=name,
        identities=name,
        paths=name,
        files=(_GIVEN,),
    )


def _require_all(needed: Sequence[str], columns: Mapping[str, str]) -> None:
    """Refuse cells of which one is lacking or not taken; an empty one is a missing value."""
    lacking = [column for column in needed if column not in columns]
    if lacking:
        raise UnreadableError(
            f"the model takes {', '.join(needed)} beside the file, and {', '.join(lacking)} was "
            "not given"
        )
    if len(columns) > len(needed):
        surplus = ", ".join(column for column in columns if column not in needed)
        raise UnreadableError(f"the model takes {', '.join(needed)} beside the file, not {surplus}")


def _require_own(features: Sequence[StaticFeature]) -> None:
    """Refuse single cells where the patient's others are needed."""
    for feature in features:
        if feature.form != "value":
            raise UnreadableError(
                f"the column {feature.column} is compared with the patient's other rows; give a "
                "table of them to wardround predict"
            )


def _own_row(table: Index, column: str, path: Path, columns: Path) -> int:
    """The one row of the table that names the file or record."""
    mine = [row for row, cell in enumerate(table.column(column)) if _names(cell, path)]
    if len(mine) != 1:
        raise UnreadableError(f"{len(mine) or 'no'} rows of {columns.name} are of this record")
    return mine[0]


def _names(cell: str, record: Path) -> bool:
    """Whether a cell names the record, by its whole path or the end of it."""
    parts = Path(cell).parts
    return bool(parts) and record.parts[-len(parts) :] == parts
