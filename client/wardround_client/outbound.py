"""The one way out of a site: every answer to the server is formed and checked here.

P = model parameters, L = metric counts, S = summed statistics.
"""

from dataclasses import dataclass

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from wardround_client.secure import Acceptance
from wardround_shared.errors import PrivacyError, RunError
from wardround_shared.messages import (
    Floats,
    Greeting,
    Update,
    add_secure,
    greeting_record,
    sums_record,
    update_record,
)
from wardround_shared.secure_aggregation import RandomBytes, VectorLayout, quantise
from wardround_shared.study import Study
from wardround_shared.vectors import Parts, sums_parts, update_parts

_DIVERGED = (
    "The training diverged at this site: its update holds a value that is not finite; "
    "lower training.learning-rate."
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
        raise RunError(_DIVERGED)
    _finite(counts)
    return update_record(Update(delta=weighted, weight=float(weight), counts=counts))


@dataclass(frozen=True, kw_only=True)
class Masking:
    """One answer of a run with secure aggregation: accepted, and to be formed yet.

    Attributes:
        layout: of the vector, as it was accepted.
        rounding: where the chances of stochastic rounding come from.
        accepted: the right to this one answer.
    """

    study: Study
    layout: VectorLayout
    rounding: RandomBytes
    accepted: Acceptance


def masked_update(
    masking: Masking, *, delta: NDArray[np.float32], weight: int, counts: Floats
) -> RecordDict:
    """Answer to a training request, readable only as a sum over sites; arguments as `update`.

    Raises:
        RunError: the training diverged; nothing leaves.
        PrivacyError: the training or validation split is larger than the study's public bound, or
            the state cannot be stored.
    """
    study = masking.study
    if weight > study.aggregation.largest_cohort:
        raise PrivacyError(
            f"This site has more training examples than the study's public bound of "
            f"{study.aggregation.largest_cohort}; raise aggregation.largest-cohort."
        )
    if not np.isfinite(delta).all():
        raise RunError(_DIVERGED)
    _finite(counts)
    return _masked(masking, update_parts(study, delta=delta, weight=weight, counts=counts))


def masked_sums(masking: Masking, message_type: str, values: Floats) -> RecordDict:
    """Answer to a request for sums, readable only as a sum over sites; arguments as `sums`.

    Raises:
        PrivacyError: a value cannot be sent, or the state cannot be stored.
    """
    _finite(values)
    return _masked(masking, sums_parts(message_type, values))


def _masked(masking: Masking, parts: Parts) -> RecordDict:
    vector = np.empty(masking.layout.words, dtype=np.uint32)
    # Counts are never clamped, but refused; a change that is clamped here was counted before, but
    # for a rounding error of float32 at the very bound.
    quantise(parts, masking.layout, masking.rounding, vector)
    return add_secure(RecordDict(), masking.accepted.answer(vector))


def sums(values: Floats) -> RecordDict:
    """Answer to a request for summed statistics (float64 [S]) or metric counts (float64 [L])."""
    _finite(values)
    return sums_record(values)


def _finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise PrivacyError("A summed statistic of this site is not finite; nothing was sent.")
