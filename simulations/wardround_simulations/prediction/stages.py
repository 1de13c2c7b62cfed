"""Answers of a labelling: a class for each step of a sequence. T = steps, K = classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wardround_shared.calibration import calibrate
from wardround_shared.study import Study
from wardround_shared.tasks import task_of
from wardround_simulations.prediction.answers import Line
from wardround_simulations.prediction.figures import Figures, figure_columns, of_classes, sentence
from wardround_simulations.prediction.prediction import Prediction


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The answer for each step.

    Attributes:
        first: number of the first step in its file, from 0.
    """

    first: int
    steps: tuple[Figures, ...]

    def lines(self) -> Sequence[Line]:
        """See `Answer.lines`; a row for each step."""
        return [
            {"step": number, **line}
            for number, one in enumerate(self.steps, start=self.first)
            for line in one.lines()
        ]

    def content(self) -> dict[str, Any]:
        """See `Answer.content`."""
        return {
            "steps": [
                {"step": number, **one.content()}
                for number, one in enumerate(self.steps, start=self.first)
            ]
        }


class StageReader:
    """See `Reader`."""

    def __init__(self, study: Study, counts: Sequence[float]) -> None:
        self._classes = study.study.classes
        self.columns = ("step", *figure_columns(self._classes))
        summed = np.asarray(counts, dtype=np.float64)
        # The counts are those of a classification of steps.
        counted = summed.shape == (task_of(study).counts_length,)
        self._curves = (calibrate(summed, self._classes),) if counted else ()
        steps = f"{int(summed[0])} steps" if counted else ""
        self.calibration = sentence(self._curves, "class", steps)

    def read(self, one: Prediction) -> Stages:
        """The answers for the steps that the file has; the last example is filled up."""
        return Stages(
            first=one.number or 0,
            steps=tuple(
                of_classes(self._classes, values, self._curves)
                for values in one.values[: one.steps]
            ),
        )
