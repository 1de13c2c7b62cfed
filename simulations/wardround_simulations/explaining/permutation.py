"""Permutation importance (Breiman 2001): what a metric loses when a column says nothing.

The cells of one column are shuffled over all examples, before the fitted steps, so that a column
and its indicator of missing cells go together. Columns that say the same stand in for one another:
each then looks less important than it is.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wardround_client.cohort import build_cohorts
from wardround_client.training import EVALUATION_BATCH, predict
from wardround_shared.errors import RunError
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import TableData
from wardround_shared.tasks import task_of
from wardround_simulations.evaluation import FinishedRun

REPEATS = 5
_SEED = 20260303


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Fall of the metric when a column is shuffled: mean, least and most over the repeats."""

    column: str
    mean: float
    least: float
    most: float


def importances(run: FinishedRun, data: Path, cache: Path) -> tuple[str, float, list[Importance]]:
    """The metric, its value with nothing shuffled, and all columns, the most important first.

    Raises:
        DataError: the data cannot be used as the study describes them.
        RunError: the metric is not defined on them.
    """
    assert isinstance(run.study.data, TableData)
    cohorts = build_cohorts(run.study, data, cache=cache).cohorts
    table = np.concatenate([np.asarray(cohort.arrays[0]) for cohort in cohorts])
    targets = np.concatenate([np.asarray(cohort.targets) for cohort in cohorts])
    metric = "c_index" if run.study.study.kind == "survival" else "auroc"
    whole = _measure(run, table, targets, metric)
    random = np.random.default_rng(_SEED)
    found = []
    for place, feature in enumerate(run.study.data.features):
        falls = []
        for _ in range(REPEATS):
            shuffled = table.copy()
            shuffled[:, place] = random.permutation(shuffled[:, place])
            falls.append(whole - _measure(run, shuffled, targets, metric))
        found.append(
            Importance(
                column=feature.column,
                mean=float(np.mean(falls)),
                least=min(falls),
                most=max(falls),
            )
        )
    return metric, whole, sorted(found, key=lambda one: -one.mean)


def _measure(
    run: FinishedRun, table: NDArray[np.float64], targets: NDArray[np.generic], metric: str
) -> float:
    task = task_of(run.study)
    (prepared,) = Recipe(run.study).transform((table,), run.fitted)
    batches = ((part,) for part in torch.from_numpy(prepared).split(EVALUATION_BATCH))
    value = task.metrics(task.count(predict(run.module, batches, task), targets))[metric]
    if value is None:
        raise RunError(
            f"The {metric} is not defined on these data: they hold one class only; take others."
        )
    return float(value)
