"""Histogram standardisation: what differs between scanners is taken out of the intensities.

n = images, C = channels, H, W = pixels, P = C H W, L = landmarks, I = inner ones.

Nyul & Udupa 1999 ("On standardizing the MR image intensity scale", section "Method") with the
landmarks of Nyul, Udupa & Zhang 2000: in training the landmarks of each image, percentiles of its
own pixels, are brought to one scale, here 0..1 from the first to the last, and their mean is taken;
then each image is mapped onto those means, piecewise linearly. The mean needs a sum and a count
only, which is what sites can add. All pixels count, background too.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wardround_shared.preprocessing.fitting import Array, Shape, require_finite

PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
_INNER = len(PERCENTILES) - 2
# Resizing leaves rounding errors of about this share in an image without contrast.
_SMALLEST_CONTRAST = 1e-6


class HistogramMatching:
    """Map each image's own landmarks onto the mean landmarks of all sites, piecewise linearly.

    The percentiles are taken over all channels, so that colours keep their balance. Intensities
    beyond the first and the last landmark are clipped to 0 and 1. Another gain or offset of a
    scanner changes neither the means nor the result. An image without contrast is not counted and
    becomes zeros.
    """

    name = "match-histogram"
    needs_sums = True
    part = 0

    def length(self, shape: Shape) -> int:
        """Number of sums: a count, and a sum for each inner landmark."""
        del shape
        return 1 + _INNER

    def sums(self, images: Array) -> NDArray[np.float64]:
        """[count [1], sum of each inner landmark on the scale 0..1 [I]] of [n, C, H, W]."""
        own = _landmarks(images)
        own = own[_contrast(own)]
        first, last = own[:, :1], own[:, -1:]
        inner = ((own - first) / (last - first))[:, 1:-1]
        return np.concatenate([[float(len(own))], inner.sum(axis=0)])

    def fit(self, sums: NDArray[np.float64]) -> dict[str, Array]:
        """Mean of each inner landmark [I]; zeros where no image has contrast."""
        count, *total = require_finite(sums, self.name)
        return {"landmarks": np.array(total) / max(count, 1.0)}

    def apply(self, images: Array, fitted: Mapping[str, Array]) -> Array:
        """[n, C, H, W] -> the same shape, within 0..1."""
        mapped = np.zeros_like(images)
        own = _landmarks(images)
        for place in np.flatnonzero(_contrast(own)):
            mapped[place] = np.interp(images[place], *_knots(own[place], fitted["landmarks"]))
        return mapped

    def shape(self, shape: Shape) -> Shape:
        """The shape stays."""
        return shape


def _landmarks(images: Array) -> NDArray[np.float64]:
    """[n, C, H, W] -> [n, L], ascending."""
    # Not reshape(n, -1): the rest of the shape is unknown to it where n is 0.
    pixels = images.reshape(len(images), math.prod(images.shape[1:])).astype(np.float64)
    landmarks = np.percentile(pixels, PERCENTILES, axis=1).T
    # Rounding may put a percentile a hair below the one before.
    ascending: NDArray[np.float64] = np.maximum.accumulate(landmarks, axis=1)
    return ascending


def _contrast(own: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which images [n] have landmarks that differ at all."""
    first, last = own[:, 0], own[:, -1]
    rounding = _SMALLEST_CONTRAST * np.maximum(np.abs(first), np.abs(last))
    contrast: NDArray[np.bool_] = last - first > rounding
    return contrast


def _knots(own: NDArray[np.float64], inner: Array) -> tuple[Array, Array]:
    """Where the pieces meet: intensities of the image and what they become, both ascending.

    Landmarks may coincide, as on a large even area: it becomes the mean of what they stand for,
    but for the darkest and the brightest one, which stay 0 and 1 in every image.
    """
    intensities, place = np.unique(own, return_inverse=True)
    standard = np.concatenate([[0.0], inner, [1.0]])
    becomes = np.bincount(place, weights=standard) / np.bincount(place)
    becomes[0], becomes[-1] = 0.0, 1.0
    return intensities, becomes
