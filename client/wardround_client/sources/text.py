"""`source = "text"`: texts in the cells of the index. n = columns of text."""

from functools import partial
from pathlib import Path

import numpy as np

from wardround_client.sources.cells import canonical, marks
from wardround_client.sources.examples import Example
from wardround_client.sources.index import Index
from wardround_client.sources.records import RawRecord
from wardround_client.sources.rows import Rows, RowSource
from wardround_shared.study import Study, TextData


def text_source(study: Study, data: TextData, folder: Path) -> RowSource:
    """CSV files, whose cells may have several lines; `main` is the cells, str [n].

    A cell that is missing counts as an empty text.
    """
    return RowSource(study, data, folder, partial(_texts, data))


def _texts(data: TextData, index: Index) -> Rows:
    columns = [index.column(name) for name in data.text]
    missing = marks(data.missing)

    def read(example: Example) -> RawRecord:
        cells = (column[example.row] for column in columns)
        return example.record(
            np.array(["" if canonical(cell) in missing else cell for cell in cells])
        )

    return read
