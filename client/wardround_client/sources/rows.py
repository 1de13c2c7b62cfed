"""Sources whose examples are rows of the index themselves, and not files that rows name."""

from collections.abc import Callable, Iterator
from pathlib import Path

from wardround_client.sources.examples import Example, select
from wardround_client.sources.files import fingerprint, matching
from wardround_client.sources.index import Index, join_files, table_index
from wardround_client.sources.records import RawRecord, SetAside
from wardround_shared.study import Study, TableData, TextData

Rows = Callable[[Example], RawRecord | SetAside]
"""Makes a record of an example's row."""


class RowSource:
    """Rows of CSV or headerless files."""

    def __init__(
        self,
        study: Study,
        data: TableData | TextData,
        folder: Path,
        rows_of: Callable[[Index], Rows],
    ) -> None:
        """Find the files, open none.

        Args:
            study: as it is.
            data: its data section.
            folder: data folder.
            rows_of: what is read of the rows of an index.
        """
        self._study, self._data, self._folder = study, data, folder
        self._rows_of = rows_of
        self._tables = matching(folder, data.table, "data.table")
        self._files = (*self._tables, *join_files(data, folder))
        self._notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Hash over names, sizes and times of the tables."""
        return fingerprint(self._folder, self._files)

    def notes(self) -> tuple[str, ...]:
        """What a person should know, complete once `records` is exhausted."""
        return self._notes

    def records(self) -> Iterator[RawRecord | SetAside]:
        """Every row, or why it cannot be used."""
        index = table_index(self._data, self._folder, self._tables)
        read = self._rows_of(index)
        selection = select(index, self._study)
        self._notes = selection.notes
        yield from selection.set_aside
        yield from map(read, selection.examples)
