"""Calibrated probabilities from summed counts: no record is needed, and no site's own counts.

A logistic curve through the log-odds that the model gives (Platt 1999, "Probabilistic outputs for
support vector machines"), with slope and intercept that fit the counted scores best. With more than
two classes each is fitted against the rest, and the results are brought to a sum of one (Zadrozny &
Elkan 2002, "Transforming classifier scores into accurate multiclass probability estimates").

N = examples, K = classes, S = bins of the score.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround_shared.evaluation import (
    Array,
    histograms,
    positive_classes,
    score_centres,
    scores,
)

FEWEST = 20
"""Examples of a class, and as many of the others, without which its curve would be a guess."""

_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The probability of a class is sigmoid(slope x score + intercept)."""

    slope: float
    intercept: float

    def __call__(self, score: Array) -> Array:
        """Scores [N] -> probabilities [N]."""
        return _sigmoid(self.slope * score + self.intercept)


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """Curves of all positive classes; `fault` says why there are none."""

    curves: tuple[Curve, ...] = ()
    fault: str = ""

    def __call__(self, probabilities: Array) -> Array:
        """Probabilities [N, K] of the model -> calibrated ones, whose rows sum to 1."""
        k = probabilities.shape[1]
        single = np.stack(
            [
                curve(scores(probabilities, c))
                for curve, c in zip(self.curves, positive_classes(k), strict=True)
            ],
            axis=1,
        )
        if k == 2:
            return np.concatenate([1.0 - single, single], axis=1)
        normed: Array = single / single.sum(axis=1, keepdims=True)
        return normed


def calibrate(counts: NDArray[np.float64], classes: tuple[str, ...]) -> Calibrated:
    """Fit to the counts of one classification, summed over all sites."""
    curves = []
    for c in positive_classes(len(classes)):
        positive, negative = histograms(counts, len(classes), c)
        if min(positive.sum(), negative.sum()) < FEWEST:
            return Calibrated(
                fault=f"too few validation examples, fewer than {FEWEST} with or without "
                f"{classes[c]}"
            )
        curve = fit_curve(positive, negative)
        if curve is None:
            return Calibrated(
                fault=f"on the validation examples a higher score of {classes[c]} does not go with "
                "a higher probability"
            )
        curves.append(curve)
    return Calibrated(curves=tuple(curves))


def fit_curve(positive: Array, negative: Array) -> Curve | None:
    """The curve of greatest likelihood for histograms [S] of a score; None unless it rises.

    Each example's target is drawn in a little, as Platt does, so that a perfect separation does
    not call for an infinite slope.
    """
    there = positive + negative > 0
    score, yes, no = score_centres()[there], positive[there], negative[there]
    with_it, without = yes.sum(), no.sum()
    high, low = (with_it + 1.0) / (with_it + 2.0), 1.0 / (without + 2.0)
    weight, target = yes + no, yes * high + no * low
    inputs = np.stack([score, np.ones_like(score)], axis=1)  # [S', 2]
    found = np.array([0.0, np.log((with_it + 1.0) / (without + 1.0))])
    loss = _loss(inputs @ found, weight, target)
    for _ in range(_STEPS):
        p = _sigmoid(inputs @ found)
        gradient = inputs.T @ (weight * p - target)
        curvature = (inputs * (weight * p * (1.0 - p))[:, None]).T @ inputs
        step = np.linalg.solve(curvature + 1e-9 * np.eye(2), gradient)
        # Newton's step, halved until it leads down: the likelihood has one maximum.
        while (new := _loss(inputs @ (found - step), weight, target)) > loss and (
            np.abs(step).max() > 1e-10
        ):
            step = step / 2.0
        if new > loss:
            break
        found, loss = found - step, new
        if np.abs(step).max() < 1e-9:
            break
    slope, intercept = found.tolist()
    return Curve(slope=slope, intercept=intercept) if slope > 0.0 else None


def _loss(logits: Array, weight: Array, target: Array) -> float:
    return float((weight * np.logaddexp(0.0, logits) - target * logits).sum())


def _sigmoid(logits: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits)), dtype=np.float64)
