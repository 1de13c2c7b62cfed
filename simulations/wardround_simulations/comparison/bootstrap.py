"""How far a figure may be trusted: the bootstrap over patients.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 6 and 13: patients are
drawn with replacement, as many as there are, and the figure is taken again from those drawn; the
interval is that of the percentiles. Examples of one patient are alike, so they are drawn together.
Each site's patients are drawn from that site, so that a sample of all sites has as many of each.
In each draw all ways are measured on the same patients, so that their difference has an interval
of its own, which is narrower than the two intervals suggest. B = draws, P = patients.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround_shared.tasks import Task
from wardround_simulations.comparison.measuring import PatientCounts

ALL = ""
"""The scope of a figure that is not of one site; no site has this name."""

FEWEST = 20
"""Patients below which an interval is not given: it would be too narrow."""

_TAILS = (2.5, 97.5)
# A metric that more draws than this lack (no example of a class was drawn) has no interval.
_MOST_UNDEFINED = 0.05

Times = Mapping[str, NDArray[np.int64]]
"""How often each patient is in a draw: site -> [P], and for `ALL` those of all sites."""
Measured = Mapping[str, Sequence[Mapping[str, PatientCounts]]]
"""Way -> one for each repeat: scope (a site, or `ALL`) -> counts of its patients."""
Values = NDArray[np.float64]
"""A metric of one way at one scope, [1 + B]: of all patients once, then of each draw; NaN where it
is undefined."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure with its interval of 95 %.

    Attributes:
        value: of all patients; None where it is undefined.
        low: None, like `high`, where there are too few patients to give an interval.
    """

    value: float | None
    low: float | None
    high: float | None


def draws(patients: Mapping[str, int], *, number: int, seed: int) -> Iterator[Times]:
    """All patients of all sites once, then `number` draws.

    A site's draws depend on the seed and on its place among the sites only.
    """
    yield _with_all({site: np.ones(count, np.int64) for site, count in patients.items()})
    randoms = [np.random.default_rng([seed, place]) for place in range(len(patients))]
    for _ in range(number):
        yield _with_all(
            {
                site: np.bincount(_indices(random, count), minlength=count)
                for (site, count), random in zip(patients.items(), randoms, strict=True)
            }
        )


def values(
    measured: Measured, task: Task, drawn: Iterator[Times]
) -> dict[str, dict[str, dict[str, Values]]]:
    """Way -> scope -> metric -> its values, which are means over the repeats."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {way: {} for way in measured}
    for times in drawn:
        for way, repeats in measured.items():
            for scope in repeats[0]:
                kept = found[way].setdefault(scope, {})
                each = [task.metrics(one[scope].summed(times[scope])) for one in repeats]
                for metric in each[0]:
                    kept.setdefault(metric, []).append(_mean([one[metric] for one in each]))
    return {
        way: {
            scope: {metric: np.array(those) for metric, those in metrics.items()}
            for scope, metrics in scopes.items()
        }
        for way, scopes in found.items()
    }


def interval(found: Values, patients: int) -> Interval:
    """The figure and its percentile interval, if there are patients enough for one."""
    value = None if np.isnan(found[0]) else float(found[0])
    draws_of = found[1:]
    there = draws_of[~np.isnan(draws_of)]
    few = patients < FEWEST or len(there) < (1.0 - _MOST_UNDEFINED) * max(1, len(draws_of))
    if value is None or few:
        return Interval(value=value, low=None, high=None)
    low, high = np.percentile(there, _TAILS).tolist()
    return Interval(value=value, low=low, high=high)


def _indices(random: np.random.Generator, count: int) -> NDArray[np.int64]:
    return random.integers(0, count, count) if count else np.empty(0, np.int64)


def _with_all(times: dict[str, NDArray[np.int64]]) -> Times:
    return times | {ALL: np.concatenate(list(times.values()))}


def _mean(repeats: Sequence[float | None]) -> float:
    """NaN where the metric is undefined in one of the repeats."""
    return sum(np.nan if value is None else float(value) for value in repeats) / len(repeats)
