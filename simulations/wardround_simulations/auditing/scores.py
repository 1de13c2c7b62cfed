"""How well scores tell those who were in from those who were not, with intervals."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, norm, rankdata

_LAST = 1.0 - 1e-9
Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A share, and the interval that it lies in at the confidence asked for."""

    value: float
    low: float
    high: float


def auroc(inside: Scores, outside: Scores, *, confidence: float) -> Estimate:
    """Chance that a member's score is above a non-member's; ties count half.

    The interval is Newcombe's (2006, "Confidence intervals for an effect size measure based on the
    Mann-Whitney statistic, part 2", method 5), which holds up at 1 as well.

    Args:
        inside: of the members, at least one.
        outside: of the others, at least one.
        confidence: of the interval.
    """
    n, m = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    value = float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
    z = float(norm.ppf((1.0 + confidence) / 2.0))
    equal = (n + m) / 2.0

    def beyond(area: float) -> float:
        """Above 0 where the true area could not be so far from the measured one."""
        spread = 1.0 + (equal - 1.0) * ((1.0 - area) / (2.0 - area) + area / (1.0 + area))
        return abs(value - area) - z * math.sqrt(area * (1.0 - area) * spread / (n * m))

    # At the ends the spread is 0, and the area itself would be taken for its own limit.
    low = 0.0 if value <= 0.0 else float(brentq(beyond, 0.0, min(value, _LAST)))
    high = 1.0 if value >= 1.0 else float(brentq(beyond, max(value, 1.0 - _LAST), 1.0))
    return Estimate(value=value, low=low, high=high)


def true_positive_rate(
    inside: Scores, outside: Scores, *, false_positive_rate: float, confidence: float
) -> Estimate:
    """Share of members found by the lowest threshold that errs about so few of the others.

    The interval is that of Clopper and Pearson (1934), for the threshold as it is.

    Args:
        inside: of the members, at least one.
        outside: of the others, at least one.
        false_positive_rate: share of the others that may be taken for members, rounded down to
            whole ones.
        confidence: of the interval.
    """
    allowed = math.floor(false_positive_rate * len(outside))
    threshold = np.sort(outside)[len(outside) - 1 - allowed]
    n, found = len(inside), int((inside > threshold).sum())
    half = (1.0 - confidence) / 2.0
    return Estimate(
        value=found / n,
        low=0.0 if found == 0 else float(beta.ppf(half, found, n - found + 1)),
        high=1.0 if found == n else float(beta.ppf(1.0 - half, found + 1, n - found)),
    )
