"""What choosing hyper-parameters would cost if the data were somebody's secret.

Each private training that is looked at is a release: the choice depends on all of their scores. The
bound given is plain composition by Renyi DP, which holds however the trials are chosen. Private
selection (Liu and Talwar 2019; Papernot and Steinke 2022) costs less, but only where the number of
trials is drawn at random and nothing is shown but the winner; here every score is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy.accounting import SampledGaussian, epsilon_by_rdp

Spent = Mapping[str, SampledGaussian]
"""Site -> what one training has spent there."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of all trainings of a search together, for a patient of the site where it is most.

    Attributes:
        trainings: in which that patient's records are used: all but those that leave out the fold
            that the patient is in.
        epsilon: of all of them, at `delta`; None where there is no bound.
    """

    trainings: int
    epsilon: float | None
    delta: float


def cost_of(spent: Sequence[tuple[int, Spent]], delta: float) -> Cost | None:
    """What a search has spent; None where no training was private.

    Args:
        spent: for each training the fold that it left out, and what it spent.
        delta: of the study.
    """
    dearest: Cost | None = None
    sites = {site for _, each in spent for site in each}
    for site in sorted(sites):
        for own in {fold for fold, _ in spent}:
            history = [each[site] for fold, each in spent if fold != own and site in each]
            found = Cost(trainings=len(history), epsilon=_epsilon(history, delta), delta=delta)
            dearest = found if dearest is None else _dearer(dearest, found)
    return dearest


def _dearer(one: Cost, other: Cost) -> Cost:
    if one.epsilon is None or (other.epsilon is not None and one.epsilon >= other.epsilon):
        return one
    return other


def _epsilon(history: Sequence[SampledGaussian], delta: float) -> float | None:
    try:
        return epsilon_by_rdp(history, delta)
    except PrivacyError:
        return None
