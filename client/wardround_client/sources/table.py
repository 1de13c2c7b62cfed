"""`source = "table"`: numbers in the cells of the index. F = features."""

from functools import partial
from pathlib import Path

from wardround_client.sources.cells import feature_values
from wardround_client.sources.examples import Example
from wardround_client.sources.index import Index
from wardround_client.sources.records import RawRecord, SetAside
from wardround_client.sources.rows import Rows, RowSource
from wardround_shared.study import Study, TableData


def table_source(study: Study, data: TableData, folder: Path) -> RowSource:
    """CSV or headerless files; `main` is float64 [F].

    A row with a cell that is neither a value nor missing is set aside.
    """
    return RowSource(study, data, folder, partial(_numbers, data))


def _numbers(data: TableData, index: Index) -> Rows:
    columns = [index.column(feature.column) for feature in data.features]
    values, faults = feature_values(columns, data.features, data.missing)

    def read(example: Example) -> RawRecord | SetAside:
        if example.row in faults:
            return example.set_aside(faults[example.row])
        return example.record(values[example.row])

    return read
