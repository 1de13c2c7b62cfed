"""The one way out of a site: every answer to the server is formed and checked here.

P = model parameters, L = metric counts, S = summed statistics.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from wardround_client.secure import SecureMember
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
from wardround_shared.vectors import Parts, sums_layout, sums_parts, update_layout, update_parts

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
    """What it takes to answer one request of a run with secure aggregation.

    Attributes:
        member: this site's part in the protocol.
        rounding: where the chances of stochastic rounding come from.
        received: the protocol's messages that came with the request.
        digest: of the request, as this site received it.
    """

    study: Study
    member: SecureMember
    rounding: RandomBytes
    received: Mapping[str, bytes]
    digest: bytes


def masked_update(
    masking: Masking, *, delta: NDArray[np.float32], weight: int, counts: Floats
) -> RecordDict:
    """Answer to a training request, readable only as a sum over sites; arguments as `update`.

    Raises:
        RunError: the training diverged; nothing leaves.
        PrivacyError: the cohort is larger than the study's public bound.
        SecureAggregationError: the request is refused; nothing leaves.
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
    parts = update_parts(study, delta=delta, weight=weight, counts=counts)
    layout = update_layout(study, parameters=delta.size, sites=masking.member.sites)
    return _masked(masking, layout, parts)


def masked_sums(masking: Masking, message_type: str, values: Floats) -> RecordDict:
    """Answer to a request for sums, readable only as a sum over sites; arguments as `sums`.

    Raises:
        PrivacyError: a value cannot be sent.
        SecureAggregationError: the request is refused; nothing leaves.
    """
    _finite(values)
    layout = sums_layout(
        masking.study, message_type, length=values.size, sites=masking.member.sites
    )
    return _masked(masking, layout, sums_parts(message_type, values))


def _masked(masking: Masking, layout: VectorLayout, parts: Parts) -> RecordDict:
    vector = np.empty(layout.words, dtype=np.uint32)
    quantise(parts, layout, masking.rounding, vector)
    sent = masking.member.mask(masking.received, vector, layout=layout, model_digest=masking.digest)
    return add_secure(RecordDict(), sent)


def sums(values: Floats) -> RecordDict:
    """Answer to a request for summed statistics (float64 [S]) or metric counts (float64 [L])."""
    _finite(values)
    return sums_record(values)


def _finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise PrivacyError("A summed statistic of this site is not finite; nothing was sent.")
