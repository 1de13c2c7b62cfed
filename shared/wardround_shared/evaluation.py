"""Metrics as counts that add over sites, so that only their sum ever has to leave a site.

`count` turns one site's predictions into a vector of fixed length; the vectors of several sites
are added; `metrics` and the curves are read off the sum. The layout of the vector is: number of
examples, summed loss, confusion matrix (row: true class, column: predicted class), and for each
positive class two histograms of its score, one over the examples of that class and one over all
others. With two classes only the second is a positive class; with more, each is, against the rest.

Scores are binned by their logit, uniformly between -12 and 12: close to 0 and 1 probabilities
differ by little and still order the examples.

Shape letters: N = examples, K = classes, L = length of the vector, S = bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wardround_shared.errors import RunError

BINS = 1024
_LIMIT = 12.0
_HEAD = 2
# A probability of 0 for the true class counts as this one: one example must not make the loss
# infinite.
_LEAST_PROBABILITY = 1e-12
LARGEST_LOSS = 28.0
"""Cross-entropy of an example whose probability is cut off, rounded up."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Groups of examples by predicted probability; groups without examples are left out.

    Attributes:
        predicted: mean predicted probability of the class in each group.
        observed: share of the group that is of the class.
        n: number of examples in each group.
    """

    predicted: Array
    observed: Array
    n: Array


def counts_length(classes: int) -> int:
    """Length L of the vector for so many classes.

    Raises:
        ValueError: fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"classification needs at least two classes, not {classes}")
    return _HEAD + classes * classes + 2 * BINS * _positives(classes)


def count(probabilities: ArrayLike, labels: ArrayLike) -> Array:
    """The counts of one set of predictions, float64 [L].

    Args:
        probabilities: [N, K], each row sums to 1; N may be 0.
        labels: [N], integers in 0..K-1.

    Raises:
        RunError: a probability is not finite: the model has diverged.
        ValueError: shapes or labels do not fit.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    y = np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape[:1]:
        raise ValueError(f"probabilities {p.shape} and labels {y.shape} are not [N, K] and [N]")
    length, k = counts_length(p.shape[1]), p.shape[1]
    if y.size == 0:
        return np.zeros(length)
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= k:
        raise ValueError(f"labels must be integers from 0 to {k - 1}")
    require_finite(p)
    loss = -np.log(np.maximum(p[np.arange(len(y)), y], _LEAST_PROBABILITY)).sum()
    # Each example adds one to a cell of the confusion matrix and to a bin of each score.
    cells = [
        _HEAD + y * k + p.argmax(axis=1),
        *(_start(k, c) + BINS * (y != c) + _bin(p, c) for c in positive_classes(k)),
    ]
    counts = np.bincount(np.concatenate(cells), minlength=length).astype(np.float64)
    counts[:_HEAD] = len(y), loss
    return counts


def require_finite(predictions: NDArray[np.float64]) -> None:
    """Refuse what a model that has diverged puts out.

    Raises:
        RunError: a number is not finite.
    """
    if not np.isfinite(predictions).all():
        raise RunError(
            "The model's output is not finite, it has diverged; lower training.learning-rate."
        )


def metrics(counts: Array, classes: tuple[str, ...]) -> dict[str, float | int | None]:
    """The metrics of summed counts; None where a metric is undefined.

    With two classes, sensitivity and specificity are those of the second class; with more, they
    and the AUROC (one class against the rest) are means over the classes for which they exist.
    f1_macro and balanced_accuracy are those of scikit-learn.
    """
    k = len(classes)
    # Python's own numbers: a handful of them is faster without numpy, and sites do it every round.
    table: list[list[float]] = confusion(counts, k).tolist()
    n, loss = counts[:_HEAD].tolist()
    hits = [table[c][c] for c in range(k)]
    true = [sum(row) for row in table]
    predicted = [sum(column) for column in zip(*table, strict=True)]
    recall = [_ratio(hits[c], true[c]) for c in range(k)]
    specificity = [_ratio(n - true[c] - predicted[c] + hits[c], n - true[c]) for c in range(k)]
    f1 = [_ratio(2.0 * hits[c], true[c] + predicted[c]) for c in range(k)]
    positives = positive_classes(k)
    return {
        "accuracy": _ratio(sum(hits), n),
        "balanced_accuracy": mean(recall),
        "auroc": mean([_area(*histograms(counts, k, c)) for c in positives]),
        "f1_macro": mean(f1),
        "sensitivity": mean([recall[c] for c in positives]),
        "specificity": mean([specificity[c] for c in positives]),
        "loss": _ratio(loss, n),
        "n": round(n),
    }


def confusion(counts: Array, k: int) -> Array:
    """The confusion matrix [K, K]; row: true class, column: predicted class."""
    if counts.shape != (counts_length(k),):
        raise ValueError(f"counts of {k} classes have length {counts_length(k)}")
    return counts[_HEAD : _HEAD + k * k].reshape(k, k)


def roc(counts: Array, k: int, class_index: int) -> tuple[Array, Array]:
    """False and true positive rates from (0, 0) to (1, 1), [S + 1] each, for falling thresholds.

    Rates of a class that has no examples, or is the only one, are NaN.
    """
    positive, negative = histograms(counts, k, class_index)
    rates = []
    for histogram in (negative, positive):
        above = np.concatenate([[0.0], np.cumsum(histogram[::-1])])
        rates.append(above / above[-1] if above[-1] else np.full_like(above, np.nan))
    return rates[0], rates[1]


def calibration(counts: Array, k: int, class_index: int, groups: int = 10) -> Calibration:
    """Predicted against observed probability of a class, in equal groups of the former."""
    positive, negative = histograms(counts, k, class_index)
    centre = 1.0 / (1.0 + np.exp(-score_centres()))
    group = np.minimum((centre * groups).astype(int), groups - 1)
    n, predicted, observed = (
        np.bincount(group, weights=w, minlength=groups).astype(np.float64)
        for w in (positive + negative, (positive + negative) * centre, positive)
    )
    some = n > 0
    return Calibration(
        predicted=predicted[some] / n[some], observed=observed[some] / n[some], n=n[some]
    )


def expected_calibration_error(
    counts: Array, k: int, class_index: int, groups: int = 10
) -> float | None:
    """Mean distance of predicted from observed over all examples (Naeini et al. 2015)."""
    found = calibration(counts, k, class_index, groups)
    if not found.n.size:
        return None
    return float(np.average(np.abs(found.predicted - found.observed), weights=found.n))


def _positives(k: int) -> int:
    return 1 if k == 2 else k


def positive_classes(k: int) -> range:
    """The classes whose scores are counted: of two the second, of more each against the rest."""
    return range(1, 2) if k == 2 else range(k)


def _start(k: int, c: int) -> int:
    """Where the histograms of a positive class begin: examples of the class, then all others."""
    return _HEAD + k * k + 2 * BINS * (c - positive_classes(k).start)


def scores(p: Array, c: int) -> Array:
    """Score of class c [N] of probabilities [N, K]: its logit, cut off at -12 and 12.

    The denominator of the odds is summed over the other classes: 1 - p would be 0 long before the
    others' probabilities are.
    """
    others = np.delete(p, c, axis=1).sum(axis=1)
    with np.errstate(divide="ignore"):
        logit = np.log(np.maximum(p[:, c], 0.0)) - np.log(np.maximum(others, 0.0))
    clipped: Array = np.clip(logit, -_LIMIT, _LIMIT)
    return clipped


def score_centres() -> Array:
    """The score in the middle of each bin [S]."""
    return np.asarray(-_LIMIT + 2.0 * _LIMIT / BINS * (np.arange(BINS) + 0.5), np.float64)


def _bin(p: Array, c: int) -> NDArray[np.int64]:
    """The bin of each example's score for class c."""
    share = (scores(p, c) + _LIMIT) / (2.0 * _LIMIT)
    bins: NDArray[np.int64] = np.minimum(share * BINS, BINS - 1).astype(np.int64)
    return bins


def histograms(counts: Array, k: int, class_index: int) -> tuple[Array, Array]:
    """Score histograms [S] of the examples of a class and of all others."""
    if k == 2 and class_index == 0:
        # The score of the first class is that of the second one, mirrored.
        positive, negative = histograms(counts, 2, 1)
        return negative[::-1], positive[::-1]
    start = _start(k, class_index)
    pair = counts[start : start + 2 * BINS].reshape(2, BINS)
    return pair[0], pair[1]


def _area(positive: Array, negative: Array) -> float | None:
    """Area under the ROC curve; pairs in the same bin count half. None without such pairs."""
    below = np.cumsum(negative)
    pairs = float(positive.sum()) * float(below[-1])
    return _ratio(float(positive @ (below - negative / 2.0)), pairs)


def _ratio(numerator: float, denominator: float) -> float | None:
    """The quotient; None where there is nothing to divide by."""
    return numerator / denominator if denominator > 0 else None


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of what is defined; None if nothing is."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
