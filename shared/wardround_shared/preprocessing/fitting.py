"""What array steps have in common, and standardisation.

n = examples, K = columns of a table or channels of an image or signal, M = those standardised.

Steps are fitted on sums alone, because sums are what sites can add without showing their own.
The variance is therefore E[x^2] - E[x]^2 in float64 and not the safer two-pass form, which would
take a further exchange. It loses digits where the mean is large against the spread; a spread
below `_SMALLEST_SPREAD` of the mean cannot be told from none and counts as none.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import CohortError

Array = NDArray[Any]
Shape = tuple[int, ...]

# Rounding errors of the two terms of the variance are about 1e-15 of the squared mean each;
# their square root, with room for sums over millions of examples, is 1e-6 of the mean.
_SMALLEST_SPREAD = 1e-6


class FittedStep(Protocol):
    """One step over the stacked examples of one part (0 = main, 1 = static).

    `sums` of any split of the examples add up to those of the whole, and `fit` sees nothing
    else: this is what makes the step the same at every site.
    """

    part: int

    @property
    def name(self) -> str:
        """As in the study file."""

    @property
    def needs_sums(self) -> bool:
        """Whether the step has anything to fit."""

    def length(self, shape: Shape) -> int:
        """Length of `sums` for examples of this shape."""

    def sums(self, array: Array) -> NDArray[np.float64]:
        """Sums over a chunk of examples [n, ...]; n may be 0."""

    def fit(self, sums: NDArray[np.float64]) -> dict[str, Array]:
        """What `apply` needs, from the sums over all sites."""

    def apply(self, array: Array, fitted: Mapping[str, Array]) -> Array:
        """The step itself, on a chunk of examples."""

    def shape(self, shape: Shape) -> Shape:
        """Shape of an example after the step."""


class Standardisation:
    """Subtract the mean and divide by the standard deviation over all sites.

    Per column of a table ([n, K], only the columns at `positions`: indicators and category
    numbers stay as they are) or per channel of an image or signal ([n, K, ...]). Missing cells
    are not counted and stay missing; a column without spread becomes zeros.
    """

    name = "standardise"
    needs_sums = True

    def __init__(
        self, part: int, positions: NDArray[np.intp] | None, names: tuple[str, ...] = ()
    ) -> None:
        self.part = part
        self._positions = positions
        self.names = names

    def length(self, shape: Shape) -> int:
        """Number of sums: count, sum and sum of squares for each of the M."""
        return 3 * (shape[0] if self._positions is None else len(self._positions))

    def sums(self, array: Array) -> NDArray[np.float64]:
        """[count [M], sum [M], sum of squares [M]]."""
        chosen = array if self._positions is None else array[:, self._positions]
        # Not reshape(n, M, -1): the rest of the shape is unknown to it where n is 0.
        axes = (0, *range(2, chosen.ndim))
        values = chosen.astype(np.float64)
        there = ~np.isnan(values)
        values[~there] = 0.0
        total, squares = values.sum(axis=axes), np.square(values).sum(axis=axes)
        return np.concatenate([there.sum(axis=axes).astype(np.float64), total, squares])

    def fit(self, sums: NDArray[np.float64]) -> dict[str, Array]:
        """Mean [M] and scale [M], the inverse of the standard deviation or 0 without spread."""
        count, total, squares = require_finite(sums, self.name).reshape(3, -1)
        count = np.maximum(count, 1.0)
        mean = total / count
        variance = np.maximum(squares / count - np.square(mean), 0.0)
        spread = np.sqrt(variance)
        spread[spread <= _SMALLEST_SPREAD * np.abs(mean)] = 0.0
        scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0.0)
        return {"mean": mean, "scale": scale}

    def apply(self, array: Array, fitted: Mapping[str, Array]) -> Array:
        """The shape stays."""
        rest = (1,) * (array.ndim - 2)
        mean = fitted["mean"].astype(array.dtype).reshape(-1, *rest)
        scale = fitted["scale"].astype(array.dtype).reshape(-1, *rest)
        if self._positions is None:
            centred: Array = (array - mean) * scale
            return centred
        result = array.copy()
        result[:, self._positions] = (array[:, self._positions] - mean) * scale
        return result

    def deviations(self, array: Array, fitted: Mapping[str, Array]) -> NDArray[np.float64]:
        """How many standard deviations from the mean [n, M, ...].

        Where all training examples were equal, whatever differs is infinitely far; a missing cell
        is NaN.
        """
        chosen = array if self._positions is None else array[:, self._positions]
        rest = (1,) * (array.ndim - 2)
        mean, scale = (fitted[key].reshape(-1, *rest) for key in ("mean", "scale"))
        away = chosen.astype(np.float64) - mean
        same = np.abs(away) <= _SMALLEST_SPREAD * np.maximum(np.abs(mean), 1.0)
        unequal = np.where(np.isnan(away), np.nan, np.where(same, 0.0, np.inf))
        return np.where(scale > 0.0, away * scale, unequal)

    def shape(self, shape: Shape) -> Shape:
        """The shape stays."""
        return shape


def require_finite(sums: NDArray[np.float64], step: str) -> NDArray[np.float64]:
    """The sums, or CohortError: one site's overflow would otherwise spread to every site."""
    if not np.isfinite(sums).all():
        raise CohortError(
            f"preprocessing: the sums for {step} over all sites are not finite; look for values "
            "out of all proportion in the data."
        )
    return sums
