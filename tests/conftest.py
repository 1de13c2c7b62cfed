"""Fixtures that every test may use."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is loaded, as the command does

from pathlib import Path

import pytest
from hypothesis import settings

# Nothing is kept between test runs: the same code gives the same result.
settings.register_profile("wardround", database=None, deadline=None, derandomize=True)
settings.load_profile("wardround")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real medical data; tests that need it say so when it is not there."""
    folder = Path(os.environ.get("WARDROUND_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data: set WARDROUND_TEST_DATA or lay it in ../shared/data")
    return folder


pytest_plugins = ["hospitals"]
