"""Metrics of summed counts with their intervals, as far as a card may show them. K = classes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround_server.card.rounding import FEWEST
from wardround_shared.evaluation import BINS, confusion, counts_length, positive_classes
from wardround_shared.intervals import Interval, of_area, of_share, resampled
from wardround_shared.study import Study
from wardround_shared.tasks import (
    Classification,
    Generation,
    Labelling,
    Localisation,
    MultiLabel,
    ProportionalHazards,
    Segmentation,
    Task,
    task_of,
)
from wardround_shared.tasks.survival import RISKS, TIMES

_HEAD = 2
_NOT_SHOWN = {"n", "loss", "events", "lesions"}
Counts = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One metric; the interval is None where none is known."""

    name: str
    value: float | None
    interval: Interval | None


def measured(study: Study, counts: Counts, *, intervals: bool = True) -> list[Measured]:
    """The metrics of the counts of one site or of all; those of too few examples are left out.

    A share and its interval, both to two digits, fix the counts that they are made of: without
    intervals only the share is there.

    Where a class has fewer than ten examples, or all but fewer than ten, a share of them would be
    their count in disguise: the accuracy alone is shown, and nothing of fewer than ten in all.
    """
    task = task_of(study)
    values = task.metrics(counts)
    if counts[0] < FEWEST:
        return []
    names = [name for name in values if name not in _NOT_SHOWN and _may_show(task, counts, name)]
    known = _intervals(task, counts, names) if intervals else {}
    return [Measured(name=name, value=values[name], interval=known.get(name)) for name in names]


def _intervals(task: Task, counts: Counts, names: list[str]) -> dict[str, Interval | None]:
    """Of these metrics, by formula where there is one."""
    exact, pieces = _exact(task, counts), _pieces(task)
    if not pieces or all(name in exact for name in names):
        return exact
    return resampled(task.metrics, counts, pieces) | exact


def _may_show(task: Task, counts: Counts, name: str) -> bool:
    """Whether enough examples are behind a metric that it is no count in disguise."""
    if isinstance(task, Segmentation):
        with_it, without = task.smallest_groups(counts)
        return (without if name == "specificity" else with_it) >= FEWEST
    return name == "accuracy" or smallest_group(task, counts) >= FEWEST


def smallest_group(task: Task, counts: Counts) -> int:  # noqa: PLR0911 - one for each
    """Examples of the rarest class, of the rarest presence or absence of a finding, or events."""
    match task:
        case Generation():
            return int(counts[0])
        case Localisation():
            return int(task.metrics(counts)["lesions"])
        case Labelling(classes=classes):  # steps
            return int(confusion(counts, len(classes)).sum(axis=1).min())
        case Classification(classes):
            return int(confusion(counts, len(classes)).sum(axis=1).min())
        case MultiLabel(classes):
            single = [task.of_finding(counts, k) for k in range(len(classes))]
            return int(min(confusion(one, 2).sum(axis=1).min() for one in single))
        case ProportionalHazards():
            events = int(task.metrics(counts)["events"])
            return min(events, int(counts[0]) - events)
    return 0


def _exact(task: Task, counts: Counts) -> dict[str, Interval | None]:
    """Intervals of the metrics that have a formula."""
    match task:
        case Classification(classes):
            table = confusion(counts, len(classes))
            known = {"accuracy": of_share(float(np.trace(table)), float(counts[0]))}
            return known | (_of_two(task, counts) if len(classes) == 2 else {})
        case MultiLabel(classes):
            two = Classification(("absent", "present"))
            return {
                f"auroc {name}": _of_two(two, task.of_finding(counts, k))["auroc"]
                for k, name in enumerate(classes)
            }
    return {}


def _of_two(task: Classification, counts: Counts) -> dict[str, Interval | None]:
    (correct, false_alarms), (missed, hits) = confusion(counts, 2).tolist()
    negatives, positives = correct + false_alarms, missed + hits
    return {
        "auroc": of_area(task.metrics(counts)["auroc"], positives, negatives),
        "sensitivity": of_share(hits, positives),
        "specificity": of_share(correct, negatives),
    }


def _pieces(task: Task) -> list[slice]:
    """Parts of the counts that count each example once."""
    match task:
        case Classification(classes):
            return _of_classes(_HEAD, len(classes))
        case MultiLabel(classes):
            width = counts_length(2) - _HEAD
            return [
                piece for k in range(len(classes)) for piece in _of_classes(_HEAD + k * width, 2)
            ]
        case ProportionalHazards():
            return [slice(_HEAD, _HEAD + 2 * TIMES * RISKS)]
    return []


def _of_classes(start: int, k: int) -> list[slice]:
    """The confusion matrix, and the histograms of each positive class."""
    first = start + k * k
    scores = [
        slice(first + 2 * BINS * place, first + 2 * BINS * (place + 1))
        for place in range(len(positive_classes(k)))
    ]
    return [slice(start, first), *scores]
