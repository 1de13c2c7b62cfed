"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real medical data; tests that need it say so when it is not there."""
    folder = Path(os.environ.get("WARDROUND_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data: set WARDROUND_TEST_DATA or lay it in ../shared/data")
    return folder
