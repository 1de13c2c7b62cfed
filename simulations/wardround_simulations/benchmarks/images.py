"""Data for speed measurements: noise images of PneumoniaMNIST's size and number."""

from pathlib import Path

import numpy as np

from wardround_shared.study import Study, load_study
from wardround_simulations.options import find_study

EXAMPLES = 5182
"""As many as the training and validation part of PneumoniaMNIST that the study was tuned on."""


def write_images(folder: Path, *, examples: int = EXAMPLES, seed: int = 0) -> None:
    """Write noise images of 28 x 28 pixels with random labels as npz."""
    rng = np.random.default_rng(seed)
    np.savez(
        folder / "images.npz",
        train_images=rng.integers(0, 256, size=(examples, 28, 28), dtype=np.uint8),
        train_labels=rng.integers(0, 2, size=(examples, 1), dtype=np.uint8),
    )


def speed_study(*, rounds: int, secure: bool = False, minimum_sites: int = 1) -> Study:
    """The `pneumonia` study without privacy, noise images, augmentation and schedule."""
    return load_study(
        find_study("pneumonia"),
        [
            "privacy.mechanism=none",
            f"aggregation.secure={str(secure).lower()}",
            f"aggregation.minimum-sites={minimum_sites}",
            f"training.rounds={rounds}",
            "training.local-epochs=1",
            "training.batch-size=32",
            "training.average-last=1",
            "preprocessing.steps=[{name='standardise'}]",
        ],
    )
