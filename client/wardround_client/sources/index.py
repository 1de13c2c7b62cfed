"""The index: one row of text cells per example, put together from tables, joins or arrays.

Only the columns that the study reads are kept. Cells stay texts, without surrounding blanks, until
the study says what they mean: guessing types would make "?" columns of numbers and "NA" a gap.
"""

import csv
import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wardround_client.sources.cells import each, identifier
from wardround_client.sources.files import confine, file_fault, relative
from wardround_shared.errors import DataError, StudyError
from wardround_shared.study import (
    DicomData,
    ImagesData,
    IndexedData,
    Join,
    NiftiData,
    RecordingsData,
    SequencesData,
    SignalsData,
    TableData,
    TextData,
    WfdbData,
)

if TYPE_CHECKING:
    import _csv

Cells = list[str]

_LONGEST_TEXT = 1 << 24
"""Characters of one cell; a longer one is taken for a damaged table."""

_UNDECODED = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, kw_only=True)
class Index:
    """Rows of cells; every list has one entry a row.

    Attributes:
        columns: by name.
        known: names of all columns that the files hold, for messages.
        origins: file of the row, relative to the data folder.
        positions: file and line, for messages and the list of what was set aside.
        identities: what stands for the patient where the study has no patient column.
        paths: whose first folder is the site, with `site.folder`.
        files: all files of the index, also those without a row.
        joins: files that gave further columns.
        broken: file and position of rows that cannot be used, and the reason.
    """

    columns: Mapping[str, Cells]
    known: tuple[str, ...]
    origins: Cells
    positions: Cells
    identities: Cells
    paths: Cells
    files: tuple[str, ...]
    joins: tuple[str, ...] = ()
    broken: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)

    def column(self, name: str) -> Cells:
        """Cells of a column.

        Raises:
            DataError: no file has it; names those that there are.
        """
        if name not in self.columns:
            raise DataError(
                f"{', '.join((*self.files, *self.joins))}: there is no column {name!r}; "
                f"the columns are {', '.join(self.known)}."
            )
        return self.columns[name]

    def take(self, rows: Sequence[int]) -> "Index":
        """The rows of the given numbers, each as often as it is named."""
        return dataclasses.replace(
            self,
            columns={name: [cells[i] for i in rows] for name, cells in self.columns.items()},
            origins=[self.origins[i] for i in rows],
            positions=[self.positions[i] for i in rows],
            identities=[self.identities[i] for i in rows],
            paths=[self.paths[i] for i in rows],
        )

    def having(self, columns: Mapping[str, Cells]) -> "Index":
        """The index with further columns; a column that it has already stays."""
        return dataclasses.replace(self, columns={**columns, **self.columns})

    def noting(self, *notes: str) -> "Index":
        """The index with further notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))


def columns_read(data: IndexedData) -> tuple[str, ...]:
    """Names of the columns that the study reads, each once."""
    in_files = isinstance(data, SequencesData)  # the label is an array there
    names = [data.label.column] if data.label and not in_files else []
    names += [data.survival.time, data.survival.event] if data.survival else []
    names += [data.mask.column] if data.mask and data.mask.column else []
    names += [data.points.row, data.points.column, data.points.radius] if data.points else []
    names += [*data.where, *(join.on for join in data.join)]
    names += [data.patient] if data.patient else []
    names += [data.site.column] if data.site and data.site.column else []
    match data:
        case TableData():
            names += [feature.column for feature in data.features]
        case ImagesData() | DicomData() | NiftiData():
            names += [data.file] if data.file else []
            names += [feature.column for feature in data.static]
        case RecordingsData():
            names += [data.file, *(feature.column for feature in data.static)]
        case WfdbData():
            names += [data.record, *(feature.column for feature in data.static)]
        case SequencesData():
            names += [data.record]
        case TextData():
            names += data.text
        case SignalsData():
            names += [feature.column for feature in data.static]
    return tuple(dict.fromkeys(names))


# --- tables ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Table:
    columns: dict[str, Cells]
    header: tuple[str, ...]
    lines: list[int]
    contents: Cells
    broken: list[tuple[int, str]]


def table_index(data: IndexedData, folder: Path, files: Sequence[Path]) -> Index:
    """Read the study's tables, one below the other, and join the further ones.

    Raises:
        DataError: a file is not readable as a table, or lacks a column that the others have.
        StudyError: no table, or an impossible delimiter.
    """
    if not files:
        raise StudyError("data.table: this source needs a label table.")
    wanted = columns_read(data)
    tables = {
        relative(folder, path): _read_table(path, data, wanted, header=data.header)
        for path in files
    }
    shared = {name for table in tables.values() for name in table.columns}
    for name, table in tables.items():
        if table.header and (lacking := sorted(shared - set(table.columns))):
            raise DataError(
                f"{name}: there is no column {lacking[0]!r}, which the other tables have."
            )
    origins = [name for name, table in tables.items() for _ in table.lines]
    index = Index(
        columns={
            name: [cell for table in tables.values() for cell in table.columns.get(name, ())]
            for name in wanted
            if name in shared
        },
        known=tuple(dict.fromkeys(name for table in tables.values() for name in table.header)),
        origins=origins,
        positions=[f"{name}:{line}" for name, table in tables.items() for line in table.lines],
        identities=list(_distinct(row for table in tables.values() for row in table.contents)),
        paths=origins,
        files=tuple(tables),
        broken=tuple(
            (name, f"{name}:{line}", reason)
            for name, table in tables.items()
            for line, reason in table.broken
        ),
    )
    return joined(index, data, folder)


def _distinct(contents: Iterator[str]) -> Iterator[str]:
    """Number equal rows, so that each row is someone of its own wherever it stands."""
    seen: Counter[str] = Counter()
    for content in contents:
        seen[content] += 1
        yield f"{content}#{seen[content]}"


def _read_table(path: Path, data: IndexedData, wanted: Sequence[str], *, header: bool) -> _Table:
    if len(data.delimiter) != 1:
        raise StudyError(f"data.delimiter: {data.delimiter!r} is not one character.")
    # A text may be long, and one sign of it may be broken. What a quotation mark that is never
    # closed would swallow is refused: it would be a good part of the table.
    texts = isinstance(data, TextData)
    errors = "surrogateescape" if texts else "strict"
    try:
        with (
            _cells_of(_LONGEST_TEXT if texts else csv.field_size_limit()),
            path.open(newline="", encoding="utf-8-sig", errors=errors) as file,
        ):
            reader = csv.reader(file, delimiter=data.delimiter, strict=texts)
            names = next(reader, []) if header else list(data.columns)
            if not _decoded(names):
                raise DataError(f"{path}: this is not a table in UTF-8.")
            return _rows(path, reader, [name.strip() for name in names], wanted)
    except OSError as error:
        raise DataError(f"{path}: {file_fault(error)}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: this is not a table in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path}: this is not a delimited table ({error}).") from error


@contextmanager
def _cells_of(characters: int) -> Iterator[None]:
    """Let cells have so many characters; the csv module knows one number for all readers."""
    before = csv.field_size_limit(characters)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _decoded(cells: Sequence[str]) -> bool:
    """Whether all cells were UTF-8; what was not is kept as lone surrogates (PEP 383)."""
    return not any(not cell.isascii() and _UNDECODED.search(cell) for cell in cells)


def _rows(path: Path, reader: "_csv.Reader", names: Cells, wanted: Sequence[str]) -> _Table:
    kept = [name for name in wanted if name in names]
    for name in kept:
        if names.count(name) > 1:
            raise DataError(f"{path}: there are {names.count(name)} columns {name!r}.")
    places = [names.index(name) for name in kept]
    table = _Table(
        columns={name: [] for name in kept}, header=tuple(names), lines=[], contents=[], broken=[]
    )
    for row in reader:
        if not row:
            continue
        if len(row) != len(names):
            table.broken.append((reader.line_num, "the row has too few or too many cells"))
            continue
        if not _decoded(row):
            table.broken.append((reader.line_num, "the row is not in UTF-8"))
            continue
        cells = [cell.strip() for cell in row]
        table.lines.append(reader.line_num)
        table.contents.append(hashlib.sha256("\x1f".join(cells).encode()).hexdigest())
        for name, place in zip(kept, places, strict=True):
            table.columns[name].append(cells[place])
    return table


# --- joins -----------------------------------------------------------------------------------


def join_files(data: IndexedData, folder: Path) -> tuple[Path, ...]:
    """Files of the study's joins.

    Raises:
        DataError: one is not there.
        StudyError: one leads out of the data folder.
    """
    for join in data.join:
        confine(join.file, "data.join")
        if not (folder / join.file).is_file():
            raise DataError(f"{folder / join.file}: there is no such file, which data.join names.")
    return tuple(folder / join.file for join in data.join)


def joined(index: Index, data: IndexedData, folder: Path) -> Index:
    """Add the columns of the study's joins, in their order.

    Where both tables have a column, that of the earlier table holds. A row whose key the joined
    table lacks gets empty cells; how many there are becomes a note.

    Raises:
        DataError: a key column is not there, or a key stands twice in the joined table.
    """
    for join in data.join:
        index = _join(index, join, data, folder)
    return index


def _join(index: Index, join: Join, data: IndexedData, folder: Path) -> Index:
    table = _read_table(folder / join.file, data, columns_read(data), header=True)
    if join.on not in table.columns:
        raise DataError(
            f"{join.file}: there is no column {join.on!r} to join on; "
            f"the columns are {', '.join(table.header)}."
        )
    place: dict[str, int] = {}
    for row, key in enumerate(each(table.columns[join.on], identifier)):
        if key in place:
            raise DataError(
                f"{join.file}: lines {table.lines[place[key]]} and {table.lines[row]} have the "
                f"same {join.on!r}; a joined table needs one row a key."
            )
        place[key] = row
    rows = [place.get(identifier(key)) for key in index.column(join.on)]
    lost = sum(row is None for row in rows)
    added = index.having(
        {
            name: ["" if row is None else cells[row] for row in rows]
            for name, cells in table.columns.items()
        }
    )
    known = tuple(dict.fromkeys((*index.known, *table.header)))
    added = dataclasses.replace(added, known=known, joins=(*index.joins, join.file))
    if table.broken:
        added = added.noting(
            f"{join.file}: {len(table.broken)} rows that cannot be used were left out."
        )
    if not lost:
        return added
    return added.noting(f"{join.file}: {lost} of {len(index)} rows have no match in it.")
