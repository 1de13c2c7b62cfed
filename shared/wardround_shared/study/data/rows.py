"""Examples that stand in the rows of a table: numbers and texts."""

from typing import Literal

from pydantic import Field

from wardround_shared.study.data.cohort import IndexedData
from wardround_shared.study.data.columns import Feature


class TableData(IndexedData):
    """`source = "table"`: the rows of the index table are the examples."""

    source: Literal["table"]
    features: tuple[Feature, ...] = Field(min_length=1)


class TextData(IndexedData):
    """`source = "text"`: texts in the rows of the index table.

    Attributes:
        text: columns that are read one after the other as one text.
    """

    source: Literal["text"]
    text: tuple[str, ...] = Field(min_length=1)
