"""Images made by a finished run. N = images, K = classes, H, W = pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wardround_server.run_folder import RunFolder
from wardround_shared.errors import RunError, RunFolderError
from wardround_shared.tasks import adversaries
from wardround_simulations.evaluation import FinishedRun, open_run
from wardround_simulations.generating import GRID

ARRAYS, SAID = "samples.npz", "samples.json"
"""Files of a folder of samples, beside `GRID`."""

_BATCH = 128
_ACROSS = 10
_ROWS = 2  # of each class
_SIDE = 56  # pixels of the grid for the shorter side of an image, or more
_GAP, _TITLE = 2, 14


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Made images.

    Attributes:
        images: uint8 [N, H, W], or [N, H, W, 3] in colour.
        labels: int64 [N], number of the class that each was made as.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def sample(run: FinishedRun, count: int, *, seed: int) -> Samples:
    """Let the run's generator make `count` images, as many of each class as of any other.

    Raises:
        RunError: the run's study is no image generation.
    """
    labels = np.arange(count) % len(run.study.study.classes)
    values = made(run, labels, seed=seed)
    pixels = np.rint(values.transpose(0, 2, 3, 1) * 255.0).astype(np.uint8)
    return Samples(images=pixels[..., 0] if pixels.shape[3] == 1 else pixels, labels=labels)


def made(run: FinishedRun, labels: NDArray[np.int64], *, seed: int) -> NDArray[np.float32]:
    """One image of each label, values from 0 to 1, [N, C, H, W].

    Raises:
        RunError: the run's study is no image generation.
    """
    if run.study.study.kind != "generation":
        raise RunError(
            f"The run's task is {run.study.study.task}, and its model makes no images; name a run "
            "of an image-generation study."
        )
    network = adversaries(run.module)
    chance = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        found = [
            network.made(batch, chance).numpy() for batch in torch.from_numpy(labels).split(_BATCH)
        ]
    return np.concatenate(found)


def keep_grid(run: Path) -> None:
    """Put a picture of what a finished run makes into its folder.

    Raises:
        RunFolderError: it cannot be written.
    """
    opened = open_run(run)
    classes = opened.study.study.classes
    samples = sample(opened, len(classes) * _ROWS * _ACROSS, seed=0)
    try:
        draw_grid(samples, classes, run / GRID)
    except OSError as error:
        raise RunFolderError(f"{run / GRID}: it cannot be written ({error.strerror}).") from error


def draw_grid(samples: Samples, classes: Sequence[str], file: Path) -> None:
    """Write a PNG with rows of each class, below its name."""
    height, width = samples.images.shape[1:3]
    times = max(1, -(-_SIDE // min(height, width)))
    cell = (width * times + _GAP, height * times + _GAP)
    block = _TITLE + _ROWS * cell[1]
    grid = Image.new("RGB", (_ACROSS * cell[0], len(classes) * block), "white")
    words = ImageDraw.Draw(grid)
    for number, name in enumerate(classes):
        words.text((2, number * block + 1), name, fill="black")
        for place, image in enumerate(samples.images[samples.labels == number][: _ROWS * _ACROSS]):
            row, column = divmod(place, _ACROSS)
            picture = Image.fromarray(image).convert("RGB")
            larger = picture.resize((width * times, height * times), Image.Resampling.NEAREST)
            grid.paste(larger, (column * cell[0], number * block + _TITLE + row * cell[1]))
    grid.save(file)


def write_samples(samples: Samples, run: FinishedRun, out: Path, *, seed: int) -> None:
    """Write a folder with the images as arrays, some of them as a picture, and whence they are.

    Args:
        samples: what to write.
        run: that made them.
        out: a new folder.
        seed: that they were made with.

    Raises:
        RunFolderError: the folder is there already, or cannot be written.
    """
    if out.exists():
        raise RunFolderError(f"{out}: this folder exists already; name another with --out.")
    classes = run.study.study.classes
    said = said_of(run) | {"seed": seed, "images": len(samples.labels)}
    try:
        out.mkdir(parents=True)
        # First: images without it could be taken for protected ones.
        RunFolder(out).write_json(SAID, said)
        np.savez_compressed(
            out / ARRAYS, samples_images=samples.images, samples_labels=samples.labels[:, None]
        )
        draw_grid(samples, classes, out / GRID)
    except OSError as error:
        raise RunFolderError(f"{out}: the images cannot be written ({error.strerror}).") from error


def said_of(run: FinishedRun) -> dict[str, object]:
    """Whence made images are: study, classes by number, privacy."""
    study, privacy = run.study, None if run.not_private else run.study.privacy
    copies = "; images may be copies of those that it was trained on" if run.not_private else ""
    return {
        "study": study.study.name,
        "study_id": study.study_id,
        "classes": {str(number): name for number, name in enumerate(study.study.classes)},
        "made": f"by a generator{copies}",
        "not_private": run.not_private or None,
        "epsilon": privacy and privacy.epsilon,
        "delta": privacy and privacy.delta,
        "unit": privacy and privacy.unit,
    }
