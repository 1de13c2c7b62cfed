"""What the model's numbers mean for a person, by task. K = classes or findings, T = times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround_shared.calibration import Calibrated, calibrate
from wardround_shared.errors import UnsupportedError
from wardround_shared.study import Study
from wardround_shared.tasks import Classification, MultiLabel, ProportionalHazards, task_of

_TWO = ("absent", "present")
_TIMES = 4


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The figures of one input, by name.

    Attributes:
        shown: the model's own: probability of each class or finding, or risk and survival.
        calibrated: the probabilities calibrated; None where that is not possible.
        answer: the class of the highest probability; none where there is no such thing.
    """

    shown: Mapping[str, float]
    calibrated: Mapping[str, float] | None
    answer: str | None


class Reader:
    """Reads answers off a task's predictions, calibrated by a run's summed validation counts.

    Attributes:
        calibration: how probabilities are calibrated, or why not, in a sentence.
    """

    def __init__(self, study: Study, counts: Sequence[float]) -> None:
        """Fit the curves.

        Args:
            study: of the run.
            counts: of its summary, over all sites; empty if there are none.

        Raises:
            UnsupportedError: the task has no answers for single inputs yet.
        """
        self._study, self._task = study, task_of(study)
        if not isinstance(self._task, Classification | MultiLabel | ProportionalHazards):
            raise UnsupportedError(f"predict cannot answer for the task {study.study.task} yet.")
        self._curves = self._fitted(np.asarray(counts, dtype=np.float64))
        self.calibration = self._sentence(len(counts) > 0, int(counts[0]) if len(counts) else 0)

    def read(self, values: NDArray[np.float64]) -> Answer:
        """The answer for one input's predictions."""
        match self._task:
            case ProportionalHazards() as task:
                return Answer(shown=_survival(task, values), calibrated=None, answer=None)
            case MultiLabel(classes):
                return self._findings(classes, values)
        classes = self._study.study.classes
        (curve,) = self._curves or (Calibrated(fault="none"),)
        calibrated = None
        if curve.curves:
            calibrated = _by_name(classes, curve(values[None])[0])
        return Answer(
            shown=_by_name(classes, values),
            calibrated=calibrated,
            answer=classes[int(values.argmax())],
        )

    def _findings(self, classes: tuple[str, ...], values: NDArray[np.float64]) -> Answer:
        calibrated = {
            name: float(curve(values[k : k + 1])[0, 1])
            for k, (name, curve) in enumerate(zip(classes, self._curves, strict=False))
            if curve.curves
        }
        return Answer(
            shown=_by_name(classes, values[:, 1]), calibrated=calibrated or None, answer=None
        )

    def _fitted(self, counts: NDArray[np.float64]) -> tuple[Calibrated, ...]:
        if counts.shape != (self._task.counts_length,):
            return ()
        match self._task:
            case Classification(classes):
                return (calibrate(counts, classes),)
            case MultiLabel(classes) as task:
                return tuple(
                    calibrate(task.of_finding(counts, k), _TWO) for k in range(len(classes))
                )
        return ()

    def _sentence(self, counted: bool, n: int) -> str:
        if isinstance(self._task, ProportionalHazards):
            return "none: the summed counts of this task hold no probabilities"
        if not counted or not self._curves:
            return "none: the run has no summed validation counts"
        faults = list(dict.fromkeys(curve.fault for curve in self._curves if curve.fault))
        if not any(curve.curves for curve in self._curves):
            return f"none: {'; '.join(faults)}"
        said = (
            f"a logistic curve through the log-odds (Platt 1999) of each "
            f"{'finding' if isinstance(self._task, MultiLabel) else 'class'}, fitted on the "
            f"validation counts summed over all sites (n = {n}), at their share of each class"
        )
        return f"{said}; none for some: {'; '.join(faults)}" if faults else said


def _by_name(classes: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(classes, values.tolist(), strict=True))


def _survival(task: ProportionalHazards, values: NDArray[np.float64]) -> dict[str, float]:
    """Log relative hazard, and the probability of no event until four times up to the horizon."""
    times = task.horizon * np.arange(1, _TIMES + 1) / _TIMES
    found = task.survival(values[None], times)[0]
    curve = {f"no event until {time:g}": float(p) for time, p in zip(times, found, strict=True)}
    return {"risk (log relative hazard)": float(values[0])} | curve
