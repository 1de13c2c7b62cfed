"""Answers of a localisation: marks on the original image. H, W = its pixels, P = marks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wardround_shared.study import Study
from wardround_shared.tasks import Localisation
from wardround_shared.tasks.localisation import BINS, bins_of, froc
from wardround_simulations.prediction.answers import Line
from wardround_simulations.prediction.areas import original_size
from wardround_simulations.prediction.prediction import Prediction

MOST_FALSE = 1.0
"""Marks are told down to the score at which validation images had one false mark on average."""
_COLUMNS = ("answer", "row", "column", "score", "false marks an image", "share found")


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One mark.

    Attributes:
        row: in pixels of the original image, 0 at its upper edge; the centre of its first pixel is
            at 0.5, as DICOM counts (PS3.3 C.18.6.1.1).
        column: likewise from the left edge.
        score: from 0 to 1; no probability.
        false_marks: of this score or more on an image, a mean over the validation images; None if
            the run has no counts.
        found: share of the lesions of the validation images that marks of this score or more find.
    """

    row: float
    column: float
    score: float
    false_marks: float | None
    found: float | None


@dataclass(frozen=True, kw_only=True)
class Marks:
    """The marks of one image, the highest score first.

    Attributes:
        size: H and W of the original image.
    """

    name: str
    marks: tuple[Mark, ...]
    size: tuple[int, int]

    def lines(self) -> Sequence[Line]:
        """See `Answer.lines`; a row for each mark."""
        if not self.marks:
            return [{"answer": f"no {self.name} marked"}]
        return [
            dict(
                zip(
                    _COLUMNS,
                    (self.name, one.row, one.column, one.score, one.false_marks, one.found),
                    strict=True,
                )
            )
            for one in self.marks
        ]

    def content(self) -> dict[str, Any]:
        """See `Answer.content`."""
        return {
            "size": list(self.size),
            "marks": [
                {
                    "row": one.row,
                    "column": one.column,
                    "score": one.score,
                    "false_marks_an_image": one.false_marks,
                    "share_found": one.found,
                }
                for one in self.marks
            ],
        }


class MarkReader:
    """See `Reader`."""

    columns: tuple[str, ...] = _COLUMNS

    def __init__(self, study: Study, task: Localisation, counts: Sequence[float]) -> None:
        (self._name,) = study.study.classes
        summed = np.asarray(counts, dtype=np.float64)
        self._curve = None
        if summed.shape == (task.counts_length,) and summed[0] and summed[2]:
            self._curve = froc(summed)
            self.calibration = (
                "none: a score is no probability; beside each mark stands how many false marks of "
                "its score or more a validation image had, and the share of lesions found so "
                f"(n = {int(summed[0])} images, {int(summed[2])} lesions); marks below one false "
                "mark an image are left out"
            )
        else:
            self.calibration = "none: the run has no summed validation counts; all peaks are told"

    def read(self, one: Prediction) -> Marks:
        """The marks that are worth a look."""
        height, width = size = original_size(one)
        marks = []
        for row, column, logit in one.values.tolist():
            false, found = self._rates(logit)
            if np.isneginf(logit) or (false or 0.0) > MOST_FALSE:
                continue
            score = float(1.0 / (1.0 + np.exp(-logit)))
            marks.append(
                Mark(
                    row=row * height,
                    column=column * width,
                    score=score,
                    false_marks=false,
                    found=found,
                )
            )
        return Marks(name=self._name, marks=tuple(marks), size=size)

    def _rates(self, logit: float) -> tuple[float | None, float | None]:
        """False marks an image and share of lesions found, by marks of this logit or more."""
        if self._curve is None:
            return None, None
        false, found = self._curve
        place = BINS - int(bins_of(np.array([logit]))[0])
        return float(false[place]), float(found[place])
