"""A simulated federation of the tests: its settings, who watches it, the model it leaves."""

from pathlib import Path

import numpy as np

from wardround_server.run_folder import read_model
from wardround_shared.study import load_study
from wardround_simulations.settings import Settings


class Silent:
    """An observer that keeps what it is told."""

    def __init__(self):
        self.closed_rounds = []
        self.failures = []

    def joined(self, sites, absent):
        self.sites = sites

    def answered(self, round_number, site, failure):
        if failure:
            self.failures.append((round_number, site, failure))

    def closed(self, line, metrics_before, seconds):
        self.closed_rounds.append(line)


def settings_of(study_file: Path, data: Path, out: Path, *overrides: str, **keys) -> Settings:
    values = {
        "study": load_study(study_file, overrides),
        "data": data,
        "sites": None,
        "backend": "inline",
        "workers": 2,
        "device": "cpu",
        "out": out,
        "seed": 4,
        "cache": out.parent / "cache",
    }
    return Settings(**(values | keys))


def arrays_of(run: Path) -> dict[str, np.ndarray]:
    return read_model(run)[0]
