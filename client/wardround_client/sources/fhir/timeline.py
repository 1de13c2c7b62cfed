"""What was known before the prediction, laid out in time. F = features, T = time points."""

import numpy as np
from numpy.typing import NDArray


def over_time(
    values: NDArray[np.float64], today: int, *, features: int, length: int
) -> NDArray[np.float64] | None:
    """The last days with a value that was known before today, and today itself.

    Several values of a feature on one day become their mean, a repeated one counting once, so
    that neither the order of the files nor a resource that stands in two of them shows.

    Args:
        values: [n, 4] as `Chart.values` gives them.
        today: day of the prediction.
        features: F.
        length: T.

    Returns:
        [F + 1, T]: values, NaN where there is none; in the last row days, counted from today, NaN
        where the record is shorter. None where no value was known.
    """
    known = np.unique(values[values[:, 0] < today, 1:], axis=0)  # [m, 3]: day, feature, value
    days = np.unique(known[:, 0])[-(length - 1) :]
    if not len(days):
        return None
    known = known[known[:, 0] >= days[0]]
    place = length - 1 - len(days) + np.searchsorted(days, known[:, 0])
    feature = known[:, 1].astype(np.intp)
    sums, counts = np.zeros((features, length)), np.zeros((features, length))
    np.add.at(sums, (feature, place), known[:, 2])
    np.add.at(counts, (feature, place), 1.0)
    record = np.full((features + 1, length), np.nan)
    np.divide(sums, counts, out=record[:-1], where=counts > 0.0)
    record[-1, length - 1 - len(days) : -1] = days - today
    record[-1, -1] = 0.0
    return record
