"""Studies written as a researcher writes them, and what their sources yield."""

from collections.abc import Callable
from pathlib import Path

import pytest

from wardround_client.sources import RawRecord, SetAside, open_source
from wardround_shared.study import Study, parse_study

StudyOf = Callable[..., Study]
Read = Callable[[Study, Path], tuple[list[RawRecord], list[SetAside], tuple[str, ...]]]

_REST = """
[model]
name = "mlp"
[training]
rounds = 1
learning-rate = 0.1
[privacy]
mechanism = "none"
[aggregation]
secure = false
"""


@pytest.fixture
def study_of() -> StudyOf:
    """Builds a study of the text of its data section, and of its preprocessing if need be."""

    def build(
        data: str,
        *,
        classes: tuple[str, ...] = ("absent", "present"),
        task: str = "tabular-classification",
        preprocessing: str = "",
        name: str = "trial",
    ) -> Study:
        head = f'[study]\nname = "{name}"\ntask = "{task}"\nclasses = {list(classes)}\n'
        return parse_study(head + data + preprocessing + _REST, origin="test")

    return build


@pytest.fixture
def read() -> Read:
    """Reads a source to its end: records, what was set aside, notes."""

    def drain(study: Study, folder: Path):
        source = open_source(study, folder)
        yielded = list(source.records())
        records = [one for one in yielded if isinstance(one, RawRecord)]
        aside = [one for one in yielded if isinstance(one, SetAside)]
        return records, aside, source.notes()

    return drain
