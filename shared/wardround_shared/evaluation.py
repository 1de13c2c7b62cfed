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
    if not np.isfinite(p).all():
        raise RunError(
            "The model's output is not finite, it has diverged; lower training.learning-rate."
        )
    loss = -np.log(np.maximum(p[np.arange(len(y)), y], _LEAST_PROBABILITY)).sum()
    confused = np.bincount(y * k + p.argmax(axis=1), minlength=k * k)
    histograms = [
        np.bincount(_bin(p, c)[(y == c) == positive], minlength=BINS)
        for c in _positive_classes(k)
        for positive in (True, False)
    ]
    return np.concatenate([[len(y), loss], confused, *histograms]).astype(np.float64)


def metrics(counts: Array, classes: tuple[str, ...]) -> dict[str, float | int | None]:
    """The metrics of summed counts; None where a metric is undefined.

    With two classes, sensitivity and specificity are those of the second class; with more, they
    and the AUROC (one class against the rest) are means over the classes for which they exist.
    f1_macro and balanced_accuracy are those of scikit-learn.
    """
    k = len(classes)
    table = confusion(counts, k)
    n = float(counts[0])
    true, predicted, hits = table.sum(axis=1), table.sum(axis=0), np.diag(table)
    recall = _ratio(hits, true)
    specificity = _ratio(n - true - predicted + hits, n - true)
    shown = slice(1, None) if k == 2 else slice(None)
    return {
        "accuracy": _mean(_ratio(hits.sum(keepdims=True), np.array([n]))),
        "balanced_accuracy": _mean(recall),
        "auroc": _mean(np.array([_area(*_histograms(counts, k, c)) for c in _positive_classes(k)])),
        "f1_macro": _mean(_ratio(2.0 * hits, true + predicted)),
        "sensitivity": _mean(recall[shown]),
        "specificity": _mean(specificity[shown]),
        "loss": _mean(_ratio(counts[1:2], np.array([n]))),
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
    positive, negative = _histograms(counts, k, class_index)
    rates = []
    for histogram in (negative, positive):
        above = np.concatenate([[0.0], np.cumsum(histogram[::-1])])
        rates.append(above / above[-1] if above[-1] else np.full_like(above, np.nan))
    return rates[0], rates[1]


def calibration(counts: Array, k: int, class_index: int, groups: int = 10) -> Calibration:
    """Predicted against observed probability of a class, in equal groups of the former."""
    positive, negative = _histograms(counts, k, class_index)
    width = 2.0 * _LIMIT / BINS
    centre = 1.0 / (1.0 + np.exp(-(-_LIMIT + width * (np.arange(BINS) + 0.5))))
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


def _positive_classes(k: int) -> range:
    return range(1, 2) if k == 2 else range(k)


def _bin(p: Array, c: int) -> NDArray[np.int64]:
    """The bin of each example's score for class c.

    The denominator of the odds is summed over the other classes: 1 - p would be 0 long before the
    others' probabilities are.
    """
    others = np.delete(p, c, axis=1).sum(axis=1)
    with np.errstate(divide="ignore"):
        logit = np.log(np.maximum(p[:, c], 0.0)) - np.log(np.maximum(others, 0.0))
    share = (np.clip(logit, -_LIMIT, _LIMIT) + _LIMIT) / (2.0 * _LIMIT)
    bins: NDArray[np.int64] = np.minimum(share * BINS, BINS - 1).astype(np.int64)
    return bins


def _histograms(counts: Array, k: int, class_index: int) -> tuple[Array, Array]:
    """Score histograms [S] of the examples of a class and of all others."""
    if k == 2 and class_index == 0:
        # The score of the first class is that of the second one, mirrored.
        positive, negative = _histograms(counts, 2, 1)
        return negative[::-1], positive[::-1]
    start = _HEAD + k * k + 2 * BINS * (class_index - (k == 2))
    pair = counts[start : start + 2 * BINS].reshape(2, BINS)
    return pair[0], pair[1]


def _area(positive: Array, negative: Array) -> float:
    """Area under the ROC curve; pairs in the same bin count half. NaN without such pairs."""
    pairs = positive.sum() * negative.sum()
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negative) - negative / 2.0
    return float((positive * below).sum() / pairs)


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Element by element; NaN where there is nothing to divide by."""
    result = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _mean(values: Array) -> float | None:
    """Mean of what is defined; None if nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None
