"""`source = "text"`: texts in the cells of the index. n = columns of text."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wardround_client.sources.cells import canonical, marks
from wardround_client.sources.examples import select
from wardround_client.sources.files import fingerprint, matching
from wardround_client.sources.index import join_files, table_index
from wardround_client.sources.records import RawRecord, SetAside
from wardround_shared.study import Study, TextData


class TextSource:
    """CSV files, whose cells may have several lines; `main` is the cells, str [n]."""

    def __init__(self, study: Study, data: TextData, folder: Path) -> None:
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
        """Every row; a cell that is missing counts as an empty text."""
        index = table_index(self._data, self._folder, self._tables)
        selection = select(index, self._study)
        self._notes = selection.notes
        yield from selection.set_aside
        columns = [index.column(name) for name in self._data.text]
        missing = marks(self._data.missing)
        for example in selection.examples:
            cells = (column[example.row] for column in columns)
            texts = ["" if canonical(cell) in missing else cell for cell in cells]
            yield example.record(np.array(texts))
