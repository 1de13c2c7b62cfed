"""What segmentation and localisation have in common: outputs that are pictures."""

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import RunError

LARGEST_LOSS = 28.0
"""Loss of one example that is counted, either way; a larger one is counted as this."""


def require_finite(predictions: NDArray[np.float64]) -> None:
    """Refuse what a model that has diverged puts out.

    Raises:
        RunError: a number is not finite.
    """
    if not np.isfinite(predictions).all():
        raise RunError(
            "The model's output is not finite, it has diverged; lower training.learning-rate."
        )
