"""The running sum of updates: one vector, whatever the number of sites.

Values are added as fixed-point integers. Integer addition is exact and does not depend on the
order of arrival, so the same updates give the same model to the last bit on every backend; and
it is the arithmetic that secure aggregation needs. P = model parameters, L = metric counts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import ProtocolError
from wardround_shared.messages import Floats, Update
from wardround_shared.steps import Steps

FRACTION_BITS = 32
"""Values are rounded to multiples of 2^-32: below float32's own rounding for any useful delta."""

_SCALE = float(2**FRACTION_BITS)
_LIMIT = 2.0**62
_BLOCK = 1 << 16

Values = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sum:
    """What a closed round knows: sums over the sites that were aggregated.

    Attributes:
        delta: [P], the sum of model delta x weight.
        weight: the sum of weights.
        counts: float64 [L], the sum of metric counts.
        sites: number of updates in the sum.
        clamped: values that were cut off at the study's bound (secure aggregation only).
    """

    delta: Steps
    weight: float
    counts: Floats
    sites: int
    clamped: int = 0


class RunningSum:
    """Sum of updates of `parameters` + 1 + `counts` values from at most `sites` sites."""

    def __init__(self, *, parameters: int, counts: int, sites: int) -> None:
        self._parameters = parameters
        self._counts = counts
        self._sum: NDArray[np.int64] = np.zeros(parameters + 1 + counts, dtype=np.int64)
        # Half of int64's range shared among the sites: the sum cannot overflow.
        self._bound = _LIMIT / _SCALE / max(sites, 1)
        self._most_sites = sites
        self.sites = 0

    def add(self, update: Update) -> None:
        """Add one site's update.

        Raises:
            ProtocolError: wrong length, not finite, or too large to be added exactly; the sum
                is unchanged then.
        """
        if update.delta.shape != (self._parameters,) or update.counts.shape != (self._counts,):
            raise ProtocolError(
                f"An update has {update.delta.size} parameters and {update.counts.size} counts, "
                f"the model has {self._parameters} and {self._counts}."
            )
        if self.sites >= self._most_sites:
            raise ProtocolError("More updates arrived than sites were invited.")
        parts = (update.delta, np.array([update.weight]), update.counts)
        # All of them before any is added; written so that NaN fails too.
        if not all(-self._bound < low and high < self._bound for low, high in map(_ends, parts)):
            raise ProtocolError(
                "An update holds a value that is not finite or too large; the model has diverged "
                "at that site (lower the learning rate)."
            )
        start = 0
        for part in parts:
            _add(self._sum[start : start + len(part)], part)
            start += len(part)
        self.sites += 1

    def total(self) -> Sum:
        """The sum so far; it shares the memory of what is added later."""
        delta = Steps(counts=self._sum[: self._parameters], divisors=(_SCALE,))
        rest = Steps(counts=self._sum[self._parameters :], divisors=(_SCALE,)).values()
        return Sum(delta=delta, weight=float(rest[0]), counts=rest[1:], sites=self.sites)


def _ends(values: Values) -> tuple[float, float]:
    """The smallest and the largest value; NaN if one is."""
    return float(values.min(initial=0.0)), float(values.max(initial=0.0))


def _add(total: NDArray[np.int64], values: Values) -> None:
    """Add values to a running sum, in place and block by block."""
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK].astype(np.float64)
        block *= _SCALE
        np.rint(block, out=block)
        total[start : start + _BLOCK] += block.astype(np.int64)
