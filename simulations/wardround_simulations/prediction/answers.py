"""What the model's numbers mean for a person, by task: the seam between tasks and output."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from wardround_simulations.prediction.prediction import Prediction

Cell = float | int | str | None
Line = Mapping[str, Cell]

NO_CALIBRATION = "none: the summed counts of this task hold no probabilities"


class Answer(Protocol):
    """What the model says of one input."""

    def lines(self) -> Sequence[Line]:
        """Rows of a table, at least one; cells by the names of `Reader.columns`."""
        ...

    def content(self) -> dict[str, Any]:
        """The same for a program, as JSON."""
        ...


class Reader(Protocol):
    """Reads answers off a task's predictions, with what a run's summed validation counts say.

    Attributes:
        calibration: how probabilities are calibrated, or why not, in a sentence.
        columns: of a table, in order.
    """

    calibration: str
    columns: tuple[str, ...]

    def read(self, one: Prediction) -> Answer:
        """The answer for one input."""
        ...
