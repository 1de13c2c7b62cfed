"""Two kinds of small pictures at three hospitals, and a generator that has learned a little."""

from pathlib import Path

import numpy as np
import pytest
from federations import Silent, settings_of

from wardround_simulations.federation import simulate

STUDY = """
[study]
name = "bars"
task = "image-generation"
classes = ["lying", "standing"]
[data]
source = "images"
arrays = ["*.npz"]
images = "images"
label = { column = "labels", values = { lying = ["0"], standing = ["1"] } }
site = { file = "(.+)[.]npz" }
[model]
name = "dcgan"
width = 4
generator-width = 4
latent = 8
[training]
rounds = 2
batch-size = 16
optimiser = "adam"
learning-rate = 0.001
[training.generator]
steps = 5
batch-size = 16
[privacy]
mechanism = "none"
[aggregation]
minimum-sites = 3
"""


@pytest.fixture(scope="session")
def bars(tmp_path_factory) -> Path:
    """Each picture has one bright bar, lying or standing, in noise."""
    folder = tmp_path_factory.mktemp("bars")
    random = np.random.default_rng(2)
    for site in ("north", "south", "west"):
        labels = np.arange(120) % 2
        images = random.integers(0, 60, (120, 12, 12))
        for image, label in zip(images, labels, strict=True):
            at = random.integers(2, 9)
            view = image if label == 0 else image.T
            view[at : at + 2] += 160
        np.savez(folder / f"{site}.npz", images=images.astype(np.uint8), labels=labels[:, None])
    (folder / "bars.toml").write_text(STUDY)
    return folder


@pytest.fixture(scope="session")
def trained(bars, tmp_path_factory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("run") / "run"
    simulate(settings_of(bars / "bars.toml", bars, out), Silent())
    return out
