"""Records over time: what was observed, when, and how a model is told what was not.

n = examples, F = features, T = time points. An example is [3 F, T]: values, masks (1 where there
is a value) and gaps, as the inputs of a GRU in Che et al. 2018 ("Recurrent Neural Networks for
Multivariate Time Series with Missing Values", section 2.3). Short records are padded in front,
with mask 0 and gap 0.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import UnreadableError
from wardround_shared.preprocessing.fitting import Array, Shape
from wardround_shared.study import Fill

# A gap of a year becomes 1.
_YEAR = np.log1p(365.25)


def decode_record(record: NDArray[Any], features: int) -> NDArray[np.float32]:
    """Values and days -> values, masks and gaps.

    Args:
        record: float64 [F + 1, T]: values, NaN where there is none, and in the last row the days
            of the time points, ascending; NaN is padding.
        features: F.

    Returns:
        float32 [3 F, T]; values are NaN where there is none. A gap is log(1 + days), a year being
        1, since the feature's last value before this time point, or since the first time point.

    Raises:
        UnreadableError: the record has another shape, or a value is not finite.
    """
    if record.ndim != 2 or len(record) != features + 1:
        raise UnreadableError(
            f"the record has shape {record.shape}, and the study has {features} features."
        )
    with np.errstate(over="ignore"):
        values = record[:-1].astype(np.float32)
    days = record[-1]
    if np.isinf(values).any():
        raise UnreadableError("the record has a value that is not finite.")
    if (np.diff(days) <= 0.0).any() or not np.isnan(values[:, np.isnan(days)]).all():
        raise UnreadableError("the record has days in disorder.")
    seen = ~np.isnan(values)
    return np.concatenate([values, seen, _gaps(seen, days)], dtype=np.float32)


def _gaps(seen: NDArray[np.bool_], days: NDArray[Any]) -> NDArray[np.float64]:
    """[F, T] and [T] -> [F, T], as `decode_record` says."""
    gaps = np.zeros(seen.shape)
    last: NDArray[Any] | None = None
    for place in np.flatnonzero(~np.isnan(days)):
        if last is None:
            last = np.full(len(seen), days[place])
        gaps[:, place] = np.log1p(days[place] - last) / _YEAR
        last[seen[:, place]] = days[place]
    return gaps


class Filling:
    """A value that was not observed becomes the mean over all sites, or decays towards it.

    It comes after standardisation, where that mean is 0; nothing is fitted. Masks and gaps stay.
    The decay is that of GRU-D (Che et al. 2018, equation 7) with one rate for all features, given
    and not learned: the models keep layers whose gradients are known for each patient.
    """

    name = "fill"
    needs_sums = False

    def __init__(self, part: int, step: Fill) -> None:
        self.part = part
        self._half_life = step.half_life_days

    def length(self, shape: Shape) -> int:
        """No sums are needed."""
        del shape
        return 0

    def sums(self, array: Array) -> NDArray[np.float64]:
        """No sums are needed."""
        del array
        return np.zeros(0)

    def fit(self, sums: NDArray[np.float64]) -> dict[str, Array]:
        """Nothing is fitted."""
        del sums
        return {}

    def apply(self, array: Array, fitted: Mapping[str, Array]) -> Array:
        """[n, 3 F, T], no longer with NaN."""
        del fitted
        filled = array.copy()
        values, _, gaps = np.split(filled, 3, axis=1)  # views
        missing = np.isnan(values)
        values[missing] = 0.0
        if self._half_life is not None:
            kept = np.where(missing, 0.5 ** (np.expm1(gaps * _YEAR) / self._half_life), 0.0)
            values += kept * _last_values(values, missing)
        return filled

    def shape(self, shape: Shape) -> Shape:
        """The shape stays."""
        return shape


def _last_values(values: Array, missing: Array) -> Array:
    """For each missing value [n, F, T] the last one before it, or 0."""
    places = np.where(missing, 0, np.arange(values.shape[2]))
    before = np.maximum.accumulate(places, axis=2)
    # Where nothing is before, place 0 is taken: that value is missing and therefore 0.
    last: Array = np.take_along_axis(values, before, axis=2)
    return last
