"""95 % intervals of metrics, read off counts: no record is needed.

Shares of examples: Wilson (1927). The area under a ROC curve: the variance of Hanley & McNeil
(1982, "The meaning and use of the area under a receiver operating characteristic curve"), and those
areas from which the measured one is not further away than 1.96 standard errors; unlike measured
value plus and minus, that has a width when the measured area is 1 (Newcombe 2006, "Confidence
intervals for an effect size measure based on the Mann-Whitney statistic", part 2). All others:
resampling of the counts (`resampled`).

All take each example as drawn on its own: with several examples of one patient they are too narrow.
"""

from collections.abc import Callable, Mapping, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

DRAWS = 300
_Z = 1.959963984540054
_HALVINGS = 40
_SEED = 20260301


def of_share(hits: float, n: float) -> Interval | None:
    """A share of n examples; None without any."""
    if n <= 0:
        return None
    p, square = hits / n, _Z * _Z
    middle = (p + square / (2.0 * n)) / (1.0 + square / n)
    half = _Z / (1.0 + square / n) * sqrt(p * (1.0 - p) / n + square / (4.0 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def of_area(area: float | None, positives: float, negatives: float) -> Interval | None:
    """An area under a ROC curve over so many examples; None where it is not defined."""
    if area is None or positives < 1 or negatives < 1:
        return None

    def near(other: float) -> bool:
        return abs(area - other) <= _Z * _error_of_area(other, positives, negatives)

    return _edge(near, area, 0.0), _edge(near, area, 1.0)


def resampled(
    metrics: Callable[[NDArray[np.float64]], Mapping[str, float | None]],
    counts: NDArray[np.float64],
    pieces: Sequence[slice],
    draws: int = DRAWS,
) -> dict[str, Interval]:
    """The middle 95 % of each metric over counts drawn anew from their own shares.

    Args:
        metrics: of counts, by name; one that is never defined has no interval.
        counts: as a task counts.
        pieces: of the counts in each of which every example is counted once.
        draws: how many times.
    """
    random = np.random.default_rng(_SEED)
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        drawn = counts.copy()
        for piece in pieces:
            cells = counts[piece]
            there, n = np.flatnonzero(cells), int(cells.sum())
            values = np.zeros_like(cells)
            if n:
                values[there] = random.multinomial(n, cells[there] / n)
            drawn[piece] = values
        for name, value in metrics(drawn).items():
            if value is not None:
                found.setdefault(name, []).append(value)
    intervals = {}
    for name, those in found.items():
        low, high = np.quantile(those, (0.025, 0.975)).tolist()
        intervals[name] = (low, high)
    return intervals


def _error_of_area(area: float, positives: float, negatives: float) -> float:
    """Standard error by Hanley & McNeil."""
    both_above = area / (2.0 - area)
    both_below = 2.0 * area * area / (1.0 + area)
    variance = (
        area * (1.0 - area)
        + (positives - 1.0) * (both_above - area * area)
        + (negatives - 1.0) * (both_below - area * area)
    ) / (positives * negatives)
    return sqrt(max(variance, 0.0))


def _edge(near: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where `near` ends on the way from a value inside to one outside."""
    if near(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2.0
        if near(middle):
            inside = middle
        else:
            outside = middle
    return inside
