"""Answers of a segmentation: how much of each image is of which class. K = classes, H, W = pixels.

The network answers on the grid that the recipe has made; a person looks at the grid of the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_shared.study import Study
from wardround_simulations.prediction.answers import NO_CALIBRATION, Cell, Line
from wardround_simulations.prediction.prediction import Prediction


@dataclass(frozen=True, kw_only=True)
class Areas:
    """Pixels of the original image by class, but for the first, which is what is around them.

    Attributes:
        size: H and W of the original image.
    """

    pixels: Mapping[str, int]
    size: tuple[int, int]

    def share(self, name: str) -> float:
        """Of the image, from 0 to 1."""
        return self.pixels[name] / (self.size[0] * self.size[1])

    def lines(self) -> Sequence[Line]:
        """See `Answer.lines`."""
        cells: dict[str, Cell] = {}
        for name, number in self.pixels.items():
            cells |= {f"{name}, pixels": number, f"{name}, share": self.share(name)}
        return [cells]

    def content(self) -> dict[str, Any]:
        """See `Answer.content`."""
        return {
            "size": list(self.size),
            "areas": {
                name: {"pixels": number, "share": self.share(name)}
                for name, number in self.pixels.items()
            },
        }


class AreaReader:
    """See `Reader`."""

    calibration = NO_CALIBRATION

    def __init__(self, study: Study) -> None:
        self._classes = study.study.classes[1:]
        self.columns = tuple(
            f"{name}, {what}" for name in self._classes for what in ("pixels", "share")
        )

    def read(self, one: Prediction) -> Areas:
        """The areas in the original image."""
        found = np.bincount(mask_of(one).ravel(), minlength=len(self._classes) + 1)
        pixels = dict(zip(self._classes, found[1:].tolist(), strict=True))
        return Areas(pixels=pixels, size=original_size(one))


def mask_of(one: Prediction) -> NDArray[np.uint8]:
    """The number of the most probable class of each pixel of the original image, [H, W].

    A pixel of the file takes the class of the pixel of the recipe's grid that its centre lies in:
    no class is made up between two others.
    """
    found = one.values.argmax(axis=0).astype(np.uint8)
    height, width = original_size(one)
    rows, columns = _nearest(height, found.shape[0]), _nearest(width, found.shape[1])
    mask: NDArray[np.uint8] = found[np.ix_(rows, columns)]
    return mask


def original_size(one: Prediction) -> tuple[int, int]:
    """H and W of the image in the file."""
    assert one.size is not None  # the task is one of images
    return one.size


def _nearest(original: int, made: int) -> NDArray[np.int64]:
    """For each of the original pixels along an axis, the made one that its centre lies in."""
    return (2 * np.arange(original) + 1) * made // (2 * original)
