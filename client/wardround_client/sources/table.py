"""`source = "table"`: the rows of the index are the examples. F = features."""

from collections.abc import Iterator
from pathlib import Path

from wardround_client.sources.cells import feature_values
from wardround_client.sources.examples import select
from wardround_client.sources.files import fingerprint, matching
from wardround_client.sources.index import join_files, table_index
from wardround_client.sources.records import RawRecord, SetAside
from wardround_shared.study import Study, TableData


class TableSource:
    """CSV or headerless files; `main` is float64 [F]."""

    def __init__(self, study: Study, data: TableData, folder: Path) -> None:
        self._study, self._data, self._folder = study, data, folder
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
        """Every row; one with a cell that is neither a value nor missing is set aside."""
        index = table_index(self._data, self._folder, self._tables)
        features = self._data.features
        columns = [index.column(feature.column) for feature in features]
        selection = select(index, self._study)
        self._notes = selection.notes
        yield from selection.set_aside
        values, faults = feature_values(columns, features, self._data.missing)
        for example in selection.examples:
            if example.row in faults:
                yield example.set_aside(faults[example.row])
            else:
                yield example.record(values[example.row])
