"""What a comparison found, as it stands in `compare.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wardround_client.cohort import CohortSet
from wardround_simulations.comparison.bootstrap import ALL, Interval, Values, interval
from wardround_simulations.comparison.ways import FEDERATED, POOLED, PRIVATE, Way
from wardround_simulations.metric_names import METRICS, NO_SCORES, named

Found = Mapping[str, Mapping[str, Mapping[str, Values]]]
"""Way -> scope -> metric -> its values."""

Verdict = Literal["gains", "loses", "cannot be told", "too few patients to tell"]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One way once it was tried.

    Attributes:
        runs: run folder of each seed.
        by_seed: metric at all sites together -> of each seed.
        failed: why there is no model; empty if there is one.
    """

    way: Way
    runs: tuple[Path, ...] = ()
    seconds: float = 0.0
    by_seed: Mapping[str, Sequence[float | None]]
    failed: str = ""


def measures(found: Found) -> list[str]:
    """The metrics to show, the first one first: those that are defined of the federated model."""
    there = found[FEDERATED][ALL]
    defined = {metric: True for metric, those in there.items() if not np.isnan(those[0])}
    ordered = [metric for metric in named(defined) if metric not in NO_SCORES]
    return [metric for metric in ordered if metric in METRICS] or ordered


def ways_said(
    trained: Sequence[Trained], found: Found, patients: Mapping[str, int]
) -> list[dict[str, Any]]:
    """One entry for each way, in order."""
    return [_way_said(one, found.get(one.way.key, {}), patients) for one in trained]


def differences_said(
    trained: Sequence[Trained], found: Found, patients: Mapping[str, int]
) -> list[dict[str, Any]]:
    """What changes from one way to another, measured on the same draws."""
    pairs = [(FEDERATED, POOLED, ALL), (PRIVATE, FEDERATED, ALL)]
    for joined in (FEDERATED, PRIVATE):
        pairs += [(joined, one.way.key, one.way.site) for one in trained if one.way.site]
    said = []
    for of, minus, scope in pairs:
        if of not in found or minus not in found:
            continue
        after, before = found[of][scope], found[minus][scope]
        by_metric = {
            metric: interval(after[metric] - before[metric], patients[scope])
            for metric in after
            if metric != "n"
        }
        said.append(
            {
                "of": of,
                "minus": minus,
                "site": scope or None,
                "patients": patients[scope],
                "verdicts": {
                    metric: verdict_of(one)
                    for metric, one in by_metric.items()
                    if metric not in NO_SCORES
                },
                "metrics": {metric: asdict(one) for metric, one in by_metric.items()},
            }
        )
    return said


def verdict_of(difference: Interval) -> Verdict:
    """Whether a model is better than another, as far as the interval of the difference tells."""
    if difference.low is None or difference.high is None:
        return "too few patients to tell"
    if difference.low > 0.0:
        return "gains"
    return "loses" if difference.high < 0.0 else "cannot be told"


def cohorts_said(cohorts: CohortSet, patients: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Site -> how many train and validate there."""
    return {
        cohort.site: {
            "train_patients": len(np.unique(cohort.patients[cohort.train])),
            "train": len(cohort.train),
            "validation_patients": patients[cohort.site],
            "validation": len(cohort.validation),
        }
        for cohort in cohorts.cohorts
    }


def _way_said(
    trained: Trained, found: Mapping[str, Mapping[str, Values]], patients: Mapping[str, int]
) -> dict[str, Any]:
    way = trained.way
    privacy = way.study.privacy
    figures = {
        scope: {
            metric: asdict(interval(those, patients[scope]))
            for metric, those in metrics.items()
            if metric != "n"
        }
        for scope, metrics in found.items()
    }
    return {
        "way": way.key,
        "kind": way.kind,
        "title": way.title,
        "site": way.site or None,
        "study_id": way.study.study_id,
        "epsilon": privacy.epsilon if privacy.private else None,
        "secure_aggregation": way.study.aggregation.secure,
        "passes": way.passes,
        "runs": [str(run) for run in trained.runs],
        "seconds": trained.seconds,
        "failed": trained.failed or None,
        "by_seed": {metric: list(those) for metric, those in trained.by_seed.items()},
        "metrics": figures.pop(ALL, {}),
        "per_site": figures,
    }
