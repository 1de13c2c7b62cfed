"""What a site's contributions look like as one vector under masks.

Each kind of secure sum has a layout that both sides work out from the study: bounds are public, so
that the sum cannot overflow, and nothing of a layout comes from data. P = model parameters,
L = metric counts, K = classes, S = summed statistics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import PrivacyError
from wardround_shared.messages import CLASS_COUNTS, EVALUATE, Floats
from wardround_shared.secure_aggregation import Segment, VectorLayout
from wardround_shared.steps import Steps
from wardround_shared.study import Study
from wardround_shared.tasks import task_of

# A statistic is sent as so many whole numbers below 2^_LIMB_BITS: together 2^-64 to 2^80.
_LIMBS = 9
_LIMB_BITS = 16
_FRACTION_LIMBS = 4
# Place of the loss in the metric counts; all the other counts are whole numbers.
_LOSS = 1

Parts = list[NDArray[np.float32] | NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class UpdateSum:
    """A decoded sum of updates.

    Attributes:
        delta: [P], sum of model delta x weight.
        counts: float64 [L].
        clamped: parameters whose change was beyond the study's bound, over all sites.
    """

    delta: Steps
    weight: float
    counts: Floats
    clamped: int


def update_layout(study: Study, *, parameters: int, sites: int) -> VectorLayout:
    """Layout of an answer to a training request."""
    bounds = study.aggregation
    segments = (
        Segment(
            name="delta",
            length=parameters,
            bound=bounds.largest_change * bounds.largest_cohort,
        ),
        Segment(name="weight", length=1, bound=bounds.largest_cohort, integral=True),
        Segment(name="clamped", length=1, bound=parameters, integral=True),
        *_count_segments(study),
    )
    return VectorLayout(segments=segments, sites=sites, ring_bits=bounds.ring_bits)


def update_parts(study: Study, *, delta: NDArray[np.float32], weight: int, counts: Floats) -> Parts:
    """The values of `update_layout`, the delta clamped to the study's bound."""
    largest = np.float32(study.aggregation.largest_change)
    clamped = int(np.count_nonzero(np.abs(delta) > largest))
    weighted = np.clip(delta, -largest, largest) * np.float32(weight)
    return [
        weighted,
        np.array([float(weight)]),
        np.array([float(clamped)]),
        *_count_parts(counts),
    ]


def update_sum(sums: Sequence[Steps]) -> UpdateSum:
    """What a decoded sum of updates stands for."""
    delta, *others = sums
    weight, clamped, *counts = [one.values() for one in others]
    return UpdateSum(
        delta=delta, weight=float(weight[0]), clamped=int(clamped[0]), counts=_counts(counts)
    )


def sums_layout(study: Study, message_type: str, *, length: int, sites: int) -> VectorLayout:
    """Layout of an answer to a request for sums (float64 [length]) of the given type."""
    if message_type == EVALUATE:
        return VectorLayout(segments=_count_segments(study), sites=sites)
    if message_type == CLASS_COUNTS:
        largest = task_of(study).largest_count * study.aggregation.largest_cohort
        counts = Segment(name="class-counts", length=length, bound=largest, integral=True)
        return VectorLayout(segments=(counts,), sites=sites)
    # Nobody knows the size of a statistic beforehand: exact, as limbs.
    limbs = Segment(name="limbs", length=length * _LIMBS, bound=2.0**_LIMB_BITS, integral=True)
    return VectorLayout(segments=(limbs,), sites=sites)


def sums_parts(message_type: str, values: Floats) -> Parts:
    """The values of `sums_layout`.

    Raises:
        PrivacyError: a statistic of 2^80 or more; nothing can be sent.
    """
    if message_type == EVALUATE:
        return _count_parts(values)
    return [values] if message_type == CLASS_COUNTS else [_to_limbs(values)]


def sums_total(message_type: str, sums: Sequence[Steps]) -> Floats:
    """The sums (float64 [length]) that a decoded vector of `sums_layout` stands for."""
    values = [one.values() for one in sums]
    if message_type == EVALUATE:
        return _counts(values)
    return values[0] if message_type == CLASS_COUNTS else _of_limbs(values[0])


def _to_limbs(values: Floats) -> Floats:
    """Each value as whole numbers below 2^16 with its sign, the lowest first."""
    limbs = np.zeros((values.size, _LIMBS))
    for place, value in enumerate(values):
        # Exact: a float64 times a power of two, rounded to a whole number of any size.
        scaled = round(abs(float(value)) * 2.0 ** (_LIMB_BITS * _FRACTION_LIMBS))
        if scaled >> (_LIMB_BITS * _LIMBS):
            raise PrivacyError("A statistic of this site is too large to be summed.")
        for limb in range(_LIMBS):
            digit = (scaled >> (_LIMB_BITS * limb)) & (2**_LIMB_BITS - 1)
            limbs[place, limb] = digit if value >= 0 else -digit
    return limbs.ravel()


def _of_limbs(limbs: Floats) -> Floats:
    totals = [
        sum(int(digit) * 2 ** (_LIMB_BITS * limb) for limb, digit in enumerate(row))
        for row in limbs.reshape(-1, _LIMBS)
    ]
    return np.array([total / 2 ** (_LIMB_BITS * _FRACTION_LIMBS) for total in totals])


def _count_segments(study: Study) -> tuple[Segment, ...]:
    task, largest = task_of(study), study.aggregation.largest_cohort
    return (
        Segment(
            name="counts",
            length=task.counts_length - 1,
            bound=task.largest_count * largest,
            integral=True,
        ),
        Segment(name="loss", length=1, bound=task.largest_loss * largest),
    )


def _count_parts(counts: Floats) -> Parts:
    return [np.delete(counts, _LOSS), counts[[_LOSS]]]


def _counts(parts: Sequence[Floats]) -> Floats:
    whole, loss = parts
    return np.insert(whole, _LOSS, loss[0])
