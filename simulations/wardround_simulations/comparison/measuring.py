"""What a model predicts for each validation patient, as counts that add over patients.

N = examples, P = patients, M = counts that are not zero, L = length of a task's counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wardround_client.cohort import Cohort
from wardround_client.training import EVALUATION_BATCH
from wardround_shared.preprocessing import Recipe
from wardround_shared.tasks import Task
from wardround_shared.tasks.task import Counts
from wardround_simulations.evaluation import FinishedRun


@dataclass(frozen=True, kw_only=True)
class PatientCounts:
    """Each patient's own metric counts, of which most are zero.

    Attributes:
        patients: P.
        patient: int64 [M], whose count it is, from 0 to P - 1.
        cell: int64 [M], place in the vector of counts.
        value: float64 [M].
        length: L.
    """

    patients: int
    patient: NDArray[np.int64]
    cell: NDArray[np.int64]
    value: NDArray[np.float64]
    length: int

    def summed(self, times: NDArray[np.int64]) -> Counts:
        """The counts [L] of a sample in which each patient is so many times, [P].

        All examples of a patient come and go together.
        """
        weights = self.value * times[self.patient]
        return np.bincount(self.cell, weights, self.length).astype(np.float64)


def measure(run: FinishedRun, cohort: Cohort, task: Task) -> PatientCounts:
    """The counts of each validation patient of a cohort.

    Raises:
        RunError: a prediction is not finite: the model has diverged.
    """
    index = cohort.validation
    if not len(index):
        return counts_by_patient([], task.counts_length)
    predictions, targets = _predictions(run, cohort, task), cohort.targets[index]
    codes, of_example = np.unique(cohort.patients[index], return_inverse=True)
    order = np.argsort(of_example, kind="stable")
    rows = np.split(order, np.searchsorted(of_example[order], np.arange(1, len(codes))))
    return counts_by_patient(
        [task.count(predictions[row], targets[row]) for row in rows], task.counts_length
    )


def counts_by_patient(counts: Sequence[Counts], length: int) -> PatientCounts:
    """Keep what is not zero of the counts [L] of each patient."""
    cells = [np.flatnonzero(one) for one in counts]
    return PatientCounts(
        patients=len(counts),
        patient=np.repeat(np.arange(len(counts)), [len(cell) for cell in cells]),
        cell=np.concatenate([np.empty(0, np.int64), *cells]),
        value=np.concatenate(
            [np.empty(0), *(one[cell] for one, cell in zip(counts, cells, strict=True))]
        ),
        length=length,
    )


def together(sites: Sequence[PatientCounts]) -> PatientCounts:
    """The counts of all sites' patients, one site's after the other's; no patient is at two."""
    before = np.cumsum([0, *(one.patients for one in sites)])
    return PatientCounts(
        patients=int(before[-1]),
        patient=np.concatenate(
            [one.patient + start for one, start in zip(sites, before[:-1], strict=True)]
        ),
        cell=np.concatenate([one.cell for one in sites]),
        value=np.concatenate([one.value for one in sites]),
        length=sites[0].length,
    )


def _predictions(run: FinishedRun, cohort: Cohort, task: Task) -> NDArray[np.float64]:
    """What the model says of each validation example [N, ...]; only these are read."""
    recipe = Recipe(run.study)
    found = []
    with torch.inference_mode():
        for start in range(0, len(cohort.validation), EVALUATION_BATCH):
            rows = cohort.validation[start : start + EVALUATION_BATCH]
            parts = recipe.transform(tuple(array[rows] for array in cohort.arrays), run.fitted)
            outputs = run.module(*(torch.from_numpy(part) for part in parts))
            found.append(task.predictions(outputs).numpy())
    predictions: NDArray[np.float64] = np.concatenate(found)
    return predictions
