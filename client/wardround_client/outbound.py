"""The one way out of a site: every answer to the server is formed and checked here.

P = model parameters, L = metric counts, S = summed statistics.
"""

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from wardround_shared.errors import PrivacyError, RunError
from wardround_shared.messages import (
    Floats,
    Greeting,
    Update,
    greeting_record,
    sums_record,
    update_record,
)


def greeting(content: Greeting) -> RecordDict:
    """Answer to the first message: name, software, shape of an example."""
    return greeting_record(content)


def update(*, delta: NDArray[np.float32], weight: int, counts: Floats) -> RecordDict:
    """Answer to a training request: [delta x weight, weight, metric counts].

    Args:
        delta: float32 [P], trained minus received parameters.
        weight: number of training examples.
        counts: float64 [L].

    Raises:
        RunError: the training diverged; nothing leaves.
    """
    weighted = delta * np.float32(weight)
    if not np.isfinite(weighted).all():
        raise RunError(
            "The training diverged at this site: its update holds a value that is not finite; "
            "lower training.learning-rate."
        )
    _finite(counts)
    return update_record(Update(delta=weighted, weight=float(weight), counts=counts))


def sums(values: Floats) -> RecordDict:
    """Answer to a request for summed statistics (float64 [S]) or metric counts (float64 [L])."""
    _finite(values)
    return sums_record(values)


def _finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise PrivacyError("A summed statistic of this site is not finite; nothing was sent.")
