"""Targets that are pictures themselves, or lie on one: masks and points. H, W = pixels."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.examples import Example
from wardround_client.sources.files import inside
from wardround_client.sources.image_file import read_image
from wardround_client.sources.index import Index
from wardround_client.sources.targets import Target
from wardround_shared.errors import UnreadableError
from wardround_shared.study import IndexedData, Study


class PictureTargets:
    """Completes examples whose target depends on their image; others stay as they are."""

    def __init__(self, study: Study, data: IndexedData, root: Path, index: Index) -> None:
        self._mask, self._points, self._root = data.mask, data.points, root
        self._classes = len(study.study.classes)
        named = None if data.mask is None else data.mask.column
        self._cells = None if named is None else index.column(named)

    def completed(self, example: Example, image: NDArray[Any]) -> Example:
        """The example with its mask uint8 [H, W], or its points as shares of the image.

        Raises:
            UnreadableError: the mask is not there, not one, or of another size.
            OSError: the system refuses its file.
        """
        if self._points is not None:
            height, width = image.shape[:2]
            shares = example.target.values / [height, width, max(height, width)]
            there = shares[~np.isnan(shares[:, 0])]
            if (there < 0.0).any() or (there[:, :2] > 1.0).any() or (there[:, 2] <= 0.0).any():
                raise UnreadableError("a lesion lies outside of its image, or has no size")
            return _with(example, shares.astype(np.float32), stratum=example.target.stratum)
        if self._mask is None:
            return example
        if self._mask.above is not None:
            mask = largest_above(image, self._mask.above)
        else:
            assert self._cells is not None
            mask = self._read(self._cells[example.row], image)
        return _with(example, mask, stratum=int(mask.any()))

    def _read(self, cell: str, image: NDArray[Any]) -> NDArray[np.uint8]:
        mask = read_image(inside(self._root, cell))
        if mask.shape != image.shape[:2]:
            raise UnreadableError("the mask and the image differ in size")
        if mask.max(initial=0) >= self._classes:
            raise UnreadableError("the mask has a pixel that is of no class of the study")
        return mask.astype(np.uint8)


def largest_above(image: NDArray[Any], threshold: float) -> NDArray[np.uint8]:
    """1 on the largest connected piece of pixels above the threshold, its holes included; [H, W].

    Raises:
        UnreadableError: the image has colours.
    """
    from scipy import ndimage  # noqa: PLC0415 - slow to import

    if image.ndim != 2:
        raise UnreadableError("a mask by threshold needs a grey image")
    pieces, number = ndimage.label(image > threshold)
    if not number:
        return np.zeros(image.shape, dtype=np.uint8)
    largest = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
    filled: NDArray[np.uint8] = ndimage.binary_fill_holes(largest).astype(np.uint8)
    return filled


def _with(example: Example, values: NDArray[Any], *, stratum: int) -> Example:
    return dataclasses.replace(example, target=Target(stratum=stratum, values=values))
