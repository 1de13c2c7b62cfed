"""The one way out of a site: every answer to the server is formed and checked here.

Forming and sending are two steps, so that an answer can be kept in between: what was formed once
is sent as often as it is asked for, and masked anew each time.

P = model parameters, L = metric counts, S = summed statistics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from wardround_client.answers import Formed
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
_FOR_SOMETHING_ELSE = (
    "What this site has stored is no answer to this request, so nothing was sent; start a new run."
)


_WORDS = "words"
_F4, _F8 = np.dtype(np.float32), np.dtype(np.float64)
_CLEAR = ({"delta": _F4, "weight": _F8, "counts": _F8}, {"sums": _F8})
"""Names and types of the vectors of the two kinds of answers in the clear."""


def greeting(content: Greeting) -> RecordDict:
    """Answer to the first message: name, software, shape of an example."""
    return greeting_record(content)


def update(*, delta: NDArray[np.float32], weight: int, counts: Floats) -> Formed:
    """Answer to a training request in the clear: [delta x weight, weight, metric counts].

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
    return {"delta": weighted, "weight": np.array([float(weight)]), "counts": counts}


@dataclass(frozen=True, kw_only=True)
class Masking:
    """One answer of a run with secure aggregation: accepted, and not sent yet.

    Attributes:
        layout: of the vector, as it was accepted.
        rounding: where the chances of stochastic rounding come from.
        accepted: the right to mask this one answer.
    """

    study: Study
    layout: VectorLayout
    rounding: RandomBytes
    accepted: Acceptance


def masked_update(
    masking: Masking, *, delta: NDArray[np.float32], weight: int, counts: Floats
) -> Formed:
    """Answer to a training request, quantised and to be masked; arguments as `update`.

    Raises:
        RunError: the training diverged; nothing leaves.
        PrivacyError: the training or validation split is larger than the study's public bound.
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
    return _quantised(masking, update_parts(study, delta=delta, weight=weight, counts=counts))


def masked_sums(masking: Masking, message_type: str, values: Floats) -> Formed:
    """Answer to a request for sums, quantised and to be masked; arguments as `sums`.

    Raises:
        PrivacyError: a value cannot be sent.
    """
    _finite(values)
    return _quantised(masking, sums_parts(message_type, values))


def _quantised(masking: Masking, parts: Parts) -> Formed:
    vector = np.empty(masking.layout.words, dtype=np.uint32)
    # Counts are never clamped, but refused; a change that is clamped here was counted before, but
    # for a rounding error of float32 at the very bound.
    quantise(parts, masking.layout, masking.rounding, vector)
    return {_WORDS: vector}


def sums(values: Floats) -> Formed:
    """Answer in the clear: summed statistics (float64 [S]) or metric counts (float64 [L]).

    Raises:
        PrivacyError: a value is not finite.
    """
    _finite(values)
    return {"sums": values}


def sent(formed: Formed, masking: Masking | None) -> RecordDict:
    """What leaves the site of an answer that was formed now or before.

    Args:
        formed: by one of the functions above. A vector that is masked is so in place, and not to
            be used any more.
        masking: None only if the study says that it is answered in the clear.

    Raises:
        PrivacyError: it was not formed for this, and so does not leave; or the state of secure
            aggregation cannot be stored.
    """
    if masking is None:
        return _clear(formed)
    vector = formed.get(_WORDS)
    if len(formed) != 1 or vector is None or vector.dtype != np.uint32:
        raise PrivacyError(_FOR_SOMETHING_ELSE)
    return add_secure(RecordDict(), masking.accepted.answer(cast("NDArray[np.uint32]", vector)))


def _clear(formed: Formed) -> RecordDict:
    # A quantised vector without its masks is refused here: it is no kind of answer in the clear.
    kinds = {name: vector.dtype for name, vector in formed.items()}
    if kinds not in _CLEAR or any(vector.ndim != 1 for vector in formed.values()):
        raise PrivacyError(_FOR_SOMETHING_ELSE)
    vectors = cast("Mapping[str, NDArray[Any]]", formed)
    if "sums" in vectors:
        return sums_record(vectors["sums"])
    (weight,) = vectors["weight"]
    return update_record(
        Update(delta=vectors["delta"], weight=float(weight), counts=vectors["counts"])
    )


def _finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise PrivacyError("A summed statistic of this site is not finite; nothing was sent.")
