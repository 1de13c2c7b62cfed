"""Long recordings cut into windows. C = channels, T = samples in time."""

import math

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.records import Reading
from wardround_shared.errors import UnreadableError
from wardround_shared.study import Windows


def cut(signal: NDArray[np.float32], rate: float, windows: Windows | None) -> tuple[Reading, ...]:
    """The windows of a recording, or without any the recording as a whole.

    Every window has the same number of samples; what is left at the end is dropped. Where the
    stride is no whole number of samples, each start is rounded by itself, so that none drifts.

    Args:
        signal: [C, T].
        rate: of the signal, in Hz.
        windows: as the study says, in seconds.

    Raises:
        UnreadableError: the recording is shorter than one window.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise UnreadableError("the sampling rate of the recording is no positive number")
    if windows is None:
        return (Reading(main=signal, sampling_rate=rate),)
    samples = signal.shape[1]
    length, first = windows.length * rate, windows.start * rate
    if length < 0.5:
        raise UnreadableError("the window is shorter than a sample of the recording")
    # Compared before rounding: a damaged header may give a rate beyond every integer.
    if round(min(length, samples + 1)) + round(min(first, samples)) > samples:
        raise UnreadableError("the recording is shorter than the window")
    width = round(length)
    # A stride below one sample is one sample.
    step = max(rate * (windows.stride or windows.length), 1.0)
    most = math.ceil((samples - width - first) / step) + 1
    starts = (round(first + number * step) for number in range(most))
    return tuple(
        Reading(main=signal[:, start : start + width], part=f"@{start}", sampling_rate=rate)
        for start in starts
        if start + width <= samples
    )
