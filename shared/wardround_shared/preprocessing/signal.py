"""Record steps for signals.

C = channels (leads), T = samples in time. Filters come from SciPy, which is imported when the
first signal needs one: it is slow to load, and most studies have no use for it.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import UnreadableError
from wardround_shared.preprocessing.stages import SignalStep
from wardround_shared.study import BandPass, Crop, Normalise, Resample

Samples = NDArray[np.float64]

# Polyphase filters want a ratio of whole numbers; up to this denominator usual rates are exact and
# any other ratio down to 1 in 100 is met within 0.1 per cent.
_LARGEST_FACTOR = 1000


def decode_signal(
    signal: NDArray[np.generic], steps: Sequence[SignalStep], sampling_rate: float | None
) -> NDArray[np.float32]:
    """Take one signal through the record steps.

    Args:
        signal: [C, T] or [T].
        steps: in order.
        sampling_rate: of `signal`, in Hz; needed by resample and band-pass.

    Returns:
        [C, T'].

    Raises:
        UnreadableError: too short for a step, a sample is missing, or the rate does not do.
    """
    samples: Samples = np.atleast_2d(signal).astype(np.float64)
    if samples.ndim != 2 or samples.size == 0:
        raise UnreadableError(f"the signal has shape {signal.shape}; [channels, time] is needed.")
    if not np.isfinite(samples).all():
        raise UnreadableError("the signal has samples that are missing or not finite.")
    for step in steps:
        match step:
            case Resample():
                samples = resample(samples, _known(sampling_rate), step.rate)
                sampling_rate = step.rate
            case BandPass():
                samples = band_pass(
                    samples, _known(sampling_rate), (step.low, step.high), step.order
                )
            case Crop():
                samples = crop(samples, step.start, step.length)
            case Normalise():
                samples = centre(samples)
    return np.ascontiguousarray(samples, dtype=np.float32)


def _known(sampling_rate: float | None) -> float:
    if sampling_rate is None or not sampling_rate > 0:
        raise UnreadableError("the sampling rate of the signal is not known.")
    return sampling_rate


def resample(samples: Samples, old_rate: float, new_rate: float) -> Samples:
    """Resample [C, T] from `old_rate` to `new_rate` Hz with an anti-aliasing polyphase filter.

    Beyond its ends the signal is taken to go on along the line between its first and last
    sample, so that a baseline away from zero leaves no step there.
    """
    ratio = Fraction(new_rate / old_rate).limit_denominator(_LARGEST_FACTOR)
    if ratio == 1:
        return samples
    if ratio == 0:
        raise UnreadableError(f"the signal's {old_rate:g} Hz cannot become {new_rate:g} Hz.")
    from scipy.signal import resample_poly  # noqa: PLC0415 (slow to load)

    result: Samples = resample_poly(
        samples, ratio.numerator, ratio.denominator, axis=1, padtype="line"
    )
    return result


def band_pass(samples: Samples, rate: float, band: tuple[float, float], order: int) -> Samples:
    """Zero-phase Butterworth band-pass of [C, T]: forwards and backwards, so no delay is left.

    The ends are padded with their odd reflection for one period of the lower edge where the
    signal is long enough, since a shorter padding leaves a slow transient at the ends.
    """
    if band[1] >= rate / 2:
        raise UnreadableError(
            f"the signal's sampling rate of {rate:g} Hz is too low for a band up to {band[1]:g} Hz."
        )
    sections = _sections(rate, band, order)
    shortest = 3 * (2 * len(sections) + 1)
    length = samples.shape[1]
    if length <= shortest:
        raise UnreadableError(
            f"the signal is too short for the band-pass ({length} samples; "
            f"more than {shortest} are needed)."
        )
    from scipy.signal import sosfiltfilt  # noqa: PLC0415 (slow to load)

    padding = min(length - 1, max(shortest, round(rate / band[0])))
    result: Samples = sosfiltfilt(sections, samples, axis=1, padlen=padding)
    return result


@lru_cache(maxsize=32)
def _sections(rate: float, band: tuple[float, float], order: int) -> Samples:
    """Second-order sections [sections, 6]: stable where a transfer function would not be."""
    from scipy.signal import butter  # noqa: PLC0415 (slow to load)

    sections: Samples = butter(order, band, btype="bandpass", fs=rate, output="sos")
    return sections


def crop(samples: Samples, start: int, length: int) -> Samples:
    """Samples start..start + length of [C, T]."""
    if samples.shape[1] < start + length:
        raise UnreadableError(
            f"the signal is too short: {samples.shape[1]} samples, and crop needs {start + length}."
        )
    return samples[:, start : start + length]


def centre(samples: Samples) -> Samples:
    """Subtract the median of each channel and divide by its standard deviation.

    A flat channel (a lead that was off) becomes zeros.
    """
    spread = samples.std(axis=1, keepdims=True)
    moved = samples - np.median(samples, axis=1, keepdims=True)
    # Rounding alone gives a flat channel a spread of this order.
    flat = spread <= 1e-12 * np.abs(samples).max(axis=1, keepdims=True)
    return np.where(flat, 0.0, moved / np.where(flat, 1.0, spread))
