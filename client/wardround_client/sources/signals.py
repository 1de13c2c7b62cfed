"""`source = "signals"`: beats or recordings in npz arrays. C = channels, T = samples in time."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.arrays import ArraySource
from wardround_shared.errors import UnreadableError
from wardround_shared.study import SignalsData, Study


def signal_source(study: Study, data: SignalsData, folder: Path) -> ArraySource:
    """Signals float32 [C, T] from arrays [n, T] or [n, C, T]."""
    return ArraySource(study, data, folder, pattern=data.signal, example=_signal)


def _signal(row: NDArray[Any]) -> NDArray[np.float32]:
    if row.ndim not in {1, 2}:
        raise UnreadableError("the array is no [n, time] or [n, channels, time]")
    return np.atleast_2d(row).astype(np.float32)
