"""Daemons in their short form, for `make test`, and in their long form, for `make test-faults`."""

import os
from pathlib import Path

import pytest
from daemons import small_study

LONG = "WARDROUND_LONG_TESTS"


def pytest_collection_modifyitems(items):
    if os.environ.get(LONG):
        return
    skip = pytest.mark.skip(reason=f"of the long form: make test-faults, or set {LONG}=1")
    for item in items:
        if item.get_closest_marker("long_form"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def long_form() -> bool:
    """Whether there is time."""
    return bool(os.environ.get(LONG))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder for one consortium."""
    return tmp_path_factory.mktemp("consortium")


@pytest.fixture(scope="module")
def study(folder) -> Path:
    """The small table study; tests override what they need."""
    return small_study(folder)
