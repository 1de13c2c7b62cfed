"""A small table study with three hospitals, written on the spot."""

from pathlib import Path

import numpy as np
import pytest

STUDY = """
[study]
name = "small"
task = "tabular-classification"
classes = ["absent", "present"]

[data]
source = "table"
table = ["*.csv"]
missing = ["", "?"]
label = { column = "finding" }
patient = "patient"
site = { file = "(.+)[.]csv" }
features = [
    { column = "age" },
    { column = "pressure" },
    { column = "sex", kind = "categorical", categories = ["f", "m"] },
]

[preprocessing]
steps = [{ name = "impute" }, { name = "standardise" }, { name = "one-hot" }]

[model]
name = "mlp"
hidden = [8]
dropout = 0.1

[training]
rounds = 3
batch-size = 16
learning-rate = 0.2

[privacy]
mechanism = "dp-sgd"

[aggregation]
secure = false
minimum-sites = 2
"""

HOSPITALS = ("north", "south", "west")


def write_hospital(file: Path, *, seed: int, rows: int = 60, name: str | None = None) -> None:
    """One hospital's table: the finding depends on age and pressure; some cells are missing."""
    rng = np.random.default_rng(seed)
    lines = ["patient,age,pressure,sex,finding"]
    for row in range(rows):
        age, pressure = rng.normal(60, 10), rng.normal(130, 15)
        present = (age - 60) / 10 + (pressure - 130) / 15 + rng.normal(0, 0.5) > 0
        cells = [f"{age:.1f}" if rng.random() > 0.05 else "?", f"{pressure:.0f}"]
        sex = "f" if rng.random() < 0.5 else "m"
        finding = "present" if present else "absent"
        lines.append(",".join([f"{name or file.stem}-{row}", *cells, sex, finding]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """The study as a file."""
    file = tmp_path / "small.toml"
    file.write_text(STUDY, encoding="utf-8")
    return file


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    """A folder with one table for each hospital."""
    folder = tmp_path / "data"
    folder.mkdir()
    for seed, name in enumerate(HOSPITALS):
        write_hospital(folder / f"{name}.csv", seed=seed)
    return folder
