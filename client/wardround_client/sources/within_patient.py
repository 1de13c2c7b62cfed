"""What one record is against the others of its patient: long known to tell beats apart.

Intervals over the patient's own and over those around the beat follow de Chazal et al. 2004
("Automatic classification of heartbeats using ECG morphology and heartbeat interval features").
n = rows in the order of the files, which is taken for that in time; where a patient has several
records, the last rows of one are neighbours of the first of the next.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NEIGHBOURS = 10
"""Rows before and as many after one that are its neighbours."""


def over_patient(values: Floats, patients: Sequence[str]) -> Floats:
    """Each value divided by its patient's median.

    Args:
        values: [n], NaN where missing.
        patients: patient key of each row.

    Returns:
        [n], NaN where the value is missing or the median is not positive.
    """
    result = np.full(len(values), np.nan)
    for rows in _patients(values, patients):
        result[rows] = _over(values[rows], np.median(values[rows]))
    return result


def over_neighbours(values: Floats, patients: Sequence[str]) -> Floats:
    """Each value divided by the median of itself and its neighbours; as `over_patient`."""
    result = np.full(len(values), np.nan)
    for rows in _patients(values, patients):
        result[rows] = _over(values[rows], np.nanmedian(_windows(values[rows]), axis=1))
    return result


def variation(values: Floats, patients: Sequence[str]) -> Floats:
    """How much the values around a row vary: as a fraction of the patient's median.

    It is the mean absolute difference between one value and the next among row and neighbours.

    Returns:
        [n], NaN where the value is missing, stands alone, or the median is not positive.
    """
    result = np.full(len(values), np.nan)
    for rows in _patients(values, patients):
        if len(rows) > 1:
            steps = np.abs(np.diff(_windows(values[rows]), axis=1))
            result[rows] = _over(np.nanmean(steps, axis=1), np.median(values[rows]))
    return result


def median_signals(signals: NDArray[np.float32], patients: Sequence[str]) -> NDArray[np.float32]:
    """For each signal [n, ...] the median, sample by sample, over all signals of its patient.

    A signal with a sample that is not finite does not count; without any other the result is NaN.
    """
    result = np.full_like(signals, np.nan)
    whole = np.isfinite(signals).reshape(len(signals), -1).min(axis=1, initial=True)
    for rows in _groups(np.arange(len(signals)), patients):
        if whole[rows].any():
            result[rows] = np.median(signals[rows[whole[rows]]], axis=0)
    return result


def _over(values: Floats, median: np.floating | Floats) -> Floats:
    result: Floats = np.full(len(values), np.nan)
    np.divide(values, median, out=result, where=np.broadcast_to(median > 0, values.shape))
    return result


def _windows(values: Floats) -> Floats:
    """Row and neighbours of each value, [n, 2 x NEIGHBOURS + 1]; NaN beyond the ends."""
    padded = np.pad(values, NEIGHBOURS, constant_values=np.nan)
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * NEIGHBOURS + 1)


def _patients(values: Floats, patients: Sequence[str]) -> Iterator[NDArray[np.intp]]:
    """The rows of each patient that have a value."""
    return _groups(np.flatnonzero(~np.isnan(values)), patients)


def _groups(rows: NDArray[np.intp], patients: Sequence[str]) -> Iterator[NDArray[np.intp]]:
    """Rows of one patient together, in their order."""
    if not len(rows):
        return
    _, code = np.unique(np.asarray(patients, dtype=object), return_inverse=True)
    ordered = rows[np.argsort(code[rows], kind="stable")]
    yield from np.split(ordered, np.flatnonzero(np.diff(code[ordered])) + 1)
