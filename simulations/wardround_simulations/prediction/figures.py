"""Answers that are figures of a whole input: classes, findings, survival.

K = classes or findings, T = times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_shared.calibration import Calibrated, calibrate
from wardround_shared.study import Study
from wardround_shared.tasks import Classification, MultiLabel, ProportionalHazards, task_of
from wardround_simulations.prediction.answers import NO_CALIBRATION, Line
from wardround_simulations.prediction.prediction import Prediction

CALIBRATED = ", calibrated"
"""What the name of a calibrated probability ends with."""

_TWO = ("absent", "present")
_RISK = "risk (log relative hazard)"
_TIMES = 4


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of one input, by name.

    Attributes:
        shown: the model's own: probability of each class or finding, or risk and survival.
        calibrated: the probabilities calibrated; None where that is not possible.
        answer: the class of the highest probability; none where there is no such thing.
    """

    shown: Mapping[str, float]
    calibrated: Mapping[str, float] | None
    answer: str | None

    def lines(self) -> Sequence[Line]:
        """See `Answer.lines`."""
        calibrated = {f"{name}{CALIBRATED}": p for name, p in (self.calibrated or {}).items()}
        return [{"answer": self.answer, **self.shown, **calibrated}]

    def content(self) -> dict[str, Any]:
        """See `Answer.content`."""
        return {
            "answer": self.answer,
            "model": dict(self.shown),
            "calibrated": None if self.calibrated is None else dict(self.calibrated),
        }


class FigureReader:
    """See `Reader`."""

    def __init__(self, study: Study, counts: Sequence[float]) -> None:
        """Fit the curves.

        Args:
            study: of the run.
            counts: of its summary, over all sites; empty if there are none.
        """
        self._study, self._task = study, task_of(study)
        self.columns = figure_columns(study.study.classes)
        if isinstance(self._task, ProportionalHazards):
            self.columns = (_RISK, *(_until(time) for time in _times(self._task)))
        self._curves = self._fitted(np.asarray(counts, dtype=np.float64))
        self.calibration = self._sentence(int(counts[0]) if len(counts) else 0)

    def read(self, one: Prediction) -> Figures:
        """The answer for one input's predictions."""
        match self._task:
            case ProportionalHazards() as task:
                return Figures(shown=_survival(task, one.values), calibrated=None, answer=None)
            case MultiLabel(classes):
                return self._findings(classes, one.values)
        return of_classes(self._study.study.classes, one.values, self._curves)

    def _findings(self, classes: tuple[str, ...], values: NDArray[np.float64]) -> Figures:
        calibrated = {
            name: float(curve(values[k : k + 1])[0, 1])
            for k, (name, curve) in enumerate(zip(classes, self._curves, strict=False))
            if curve.curves
        }
        return Figures(
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

    def _sentence(self, n: int) -> str:
        if isinstance(self._task, ProportionalHazards):
            return NO_CALIBRATION
        what = "finding" if isinstance(self._task, MultiLabel) else "class"
        return sentence(self._curves, what, str(n))


def sentence(curves: Sequence[Calibrated], what: str, counted: str) -> str:
    """How probabilities are calibrated, or why not.

    Args:
        curves: of each classification that was counted.
        what: the curves are of, a class or a finding.
        counted: how many of what were counted.
    """
    if not curves:
        return "none: the run has no summed validation counts"
    faults = list(dict.fromkeys(curve.fault for curve in curves if curve.fault))
    if not any(curve.curves for curve in curves):
        return f"none: {'; '.join(faults)}"
    said = (
        f"a logistic curve through the log-odds (Platt 1999) of each {what}, fitted on the "
        f"validation counts summed over all sites (n = {counted}), at their share of each class"
    )
    return f"{said}; none for some: {'; '.join(faults)}" if faults else said


def figure_columns(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Of probabilities of classes or findings."""
    return ("answer", *classes, *(f"{name}{CALIBRATED}" for name in classes))


def of_classes(
    classes: tuple[str, ...], values: NDArray[np.float64], curves: Sequence[Calibrated]
) -> Figures:
    """One classification, from probabilities [K]."""
    calibrated = None
    if curves and curves[0].curves:
        calibrated = _by_name(classes, curves[0](values[None])[0])
    return Figures(
        shown=_by_name(classes, values),
        calibrated=calibrated,
        answer=classes[int(values.argmax())],
    )


def _by_name(classes: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(classes, values.tolist(), strict=True))


def _times(task: ProportionalHazards) -> NDArray[np.float64]:
    times: NDArray[np.float64] = task.horizon * np.arange(1, _TIMES + 1) / _TIMES
    return times


def _until(time: float) -> str:
    return f"no event until {time:g}"


def _survival(task: ProportionalHazards, values: NDArray[np.float64]) -> dict[str, float]:
    """Log relative hazard, and the probability of no event until four times up to the horizon."""
    times = _times(task)
    found = task.survival(values[None], times)[0]
    return {_RISK: float(values[0])} | {
        _until(time): float(p) for time, p in zip(times, found, strict=True)
    }
