"""Patients of small bundles, through the data section of a study."""

import bundles
import pytest

from wardround_shared.study import parse_study

HEAD = """
[study]
name = "trial"
task = "record-classification"
classes = ["absent", "present"]
[model]
name = "gru"
[training]
rounds = 1
learning-rate = 0.1
[privacy]
mechanism = "none"
[aggregation]
secure = false
"""


@pytest.fixture(scope="session")
def study():
    """`study(*overrides)`: the study of `bundles.DATA`."""

    def build(*overrides):
        text = HEAD + bundles.DATA + bundles.STEPS
        return parse_study(text, origin="test", overrides=overrides)

    return build


@pytest.fixture
def ask(tmp_path, study, read):
    """`ask(*documents, overrides)`: records, set aside and notes of these files."""

    def run(*documents, overrides=()):
        bundles.write(tmp_path, *documents)
        return read(study(*overrides), tmp_path)

    return run
