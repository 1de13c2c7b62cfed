"""Record steps for images.

H, W = pixels of the file, h, w = pixels after resizing, C = channels (1 or 3), N = bins.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import UnreadableError
from wardround_shared.preprocessing.stages import ImageStep
from wardround_shared.study import Histogram, Normalise, Resize, Window

Pixels = NDArray[np.float32]


def decode_image(image: NDArray[np.generic], steps: Sequence[ImageStep]) -> Pixels:
    """Take one image through the record steps.

    Integer intensities stay as they are when a step gives them a meaning (window, normalise,
    histogram); otherwise the range of the integer type is mapped to 0..1, so that 8 and 16 bit
    files of one cohort are comparable.

    Args:
        image: [H, W] or [H, W, 3].
        steps: in order.

    Returns:
        [C, h, w], or [N] after a histogram.

    Raises:
        UnreadableError: not an image, or a pixel is not finite.
    """
    pixels = _channels_first(image)
    if not any(isinstance(step, Window | Normalise | Histogram) for step in steps):
        pixels = _unit_range(pixels, image.dtype)
    for step in steps:
        match step:
            case Resize():
                pixels = resize(pixels, step.size)
            case Window():
                pixels = window(pixels, step.low, step.high)
            case Normalise():
                pixels = stretch(pixels, step.lower, step.upper)
            case Histogram():
                pixels = histogram(pixels, step.low, step.high, step.bins)
    return np.ascontiguousarray(pixels, dtype=np.float32)


def _channels_first(image: NDArray[np.generic]) -> Pixels:
    colour = image.ndim == 3 and image.shape[2] == 3
    if not (image.ndim == 2 or colour) or image.size == 0:
        raise UnreadableError(
            f"the image has shape {image.shape}; [height, width] or [height, width, 3] is needed."
        )
    pixels: Pixels = image.astype(np.float32)
    if not np.isfinite(pixels).all():
        raise UnreadableError("the image has pixels that are not finite numbers.")
    return pixels.transpose(2, 0, 1) if colour else pixels[None]


def _unit_range(pixels: Pixels, stored: np.dtype[Any]) -> Pixels:
    if not np.issubdtype(stored, np.integer):
        return pixels
    limits = np.iinfo(stored)
    return (pixels - np.float32(limits.min)) / np.float32(limits.max - limits.min)


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize [C, H, W] to [C, h, w]: each new pixel is the mean over the area it covers.

    Area weighting keeps the mean of the image and cannot alias when it shrinks an image; when
    it enlarges one the result is as blocky as the original.
    """
    rows = _overlaps(pixels.shape[1], size[0])
    columns = _overlaps(pixels.shape[2], size[1])
    resized: Pixels = np.matmul(np.matmul(rows, pixels), columns.T)
    return resized


def resize_classes(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize [H, W] to [h, w]: each new pixel is of the class that most of its area had."""
    classes = np.arange(int(mask.max(initial=0)) + 1)
    shares = resize((mask == classes[:, None, None]).astype(np.float32), size)
    largest: NDArray[np.uint8] = shares.argmax(axis=0).astype(np.uint8)
    return largest


@lru_cache(maxsize=32)
def _overlaps(old: int, new: int) -> Pixels:
    """Share of each old pixel in each new one along an axis, [new, old]; rows sum to 1."""
    edges = np.linspace(0.0, old, new + 1)
    start, stop = edges[:-1, None], edges[1:, None]
    pixel = np.arange(old)
    overlap = np.clip(np.minimum(stop, pixel + 1) - np.maximum(start, pixel), 0.0, None)
    weights: Pixels = (overlap / (old / new)).astype(np.float32)
    weights.setflags(write=False)  # the cache hands out the same array again
    return weights


def window(pixels: Pixels, low: float, high: float) -> Pixels:
    """Map low..high to 0..1 and clip outside; the shape stays (DICOM PS3.3 C.11.2.1.3.2)."""
    share: Pixels = (pixels - np.float32(low)) / np.float32(high - low)
    return share.clip(0.0, 1.0)


def stretch(pixels: Pixels, lower: float, upper: float) -> Pixels:
    """Map the image's own percentiles to 0..1 over all channels, and clip outside.

    Clipping keeps lead markers and collimator edges from setting the scale; an image without
    contrast becomes zeros.
    """
    low, high = (float(value) for value in np.percentile(pixels, (lower, upper)))
    return window(pixels, low, high) if high > low else np.zeros_like(pixels)


def histogram(pixels: Pixels, low: float, high: float, bins: int) -> Pixels:
    """Shares [N] of all pixels in equal bins of low..high; pixels outside fall in none."""
    counts, _ = np.histogram(pixels, bins=bins, range=(low, high))
    shares: Pixels = (counts / pixels.size).astype(np.float32)
    return shares
