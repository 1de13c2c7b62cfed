"""The seam between what is learned and everything that trains, sums and tells.

Shape letters: B = examples in a batch, N = examples, L = length of the counts, K = classes.
"""

from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wardround_shared.evaluation import LARGEST_LOSS

Counts = NDArray[np.float64]
Metrics = dict[str, Any]
Posed = tuple[tuple[Tensor, ...], Tensor, Tensor | None]
"""Parts, targets and patients of a batch as it is trained on."""


class Task(Protocol):
    """What a study learns.

    Metrics are read off counts that add over sites: a vector of fixed length that begins with the
    number of what is counted and the summed loss; all the rest are whole numbers.

    Attributes:
        outputs: numbers that the model puts out in one answer.
        answers: whether the model answers once for an example, or for each step or pixel of it.
        counts_length: L.
        largest_count: most that one example can add to a whole number of the counts.
        largest_loss: most that one example can add to the summed loss, either way.
    """

    @property
    def outputs(self) -> int: ...  # noqa: D102 - above

    @property
    def counts_length(self) -> int: ...  # noqa: D102

    @property
    def answers(self) -> Literal["example", "step", "pixel"]:
        """One answer for an example, unless the task says otherwise."""
        return "example"

    @property
    def largest_count(self) -> int:
        """An example is in one cell of each kind, unless the task says otherwise."""
        return 1

    @property
    def largest_loss(self) -> float:
        """That of a classification, unless the task says otherwise."""
        return LARGEST_LOSS

    def headed(self, network: nn.Module) -> nn.Module:
        """The whole model: what the task adds to a network with so many outputs, or nothing."""
        return network

    def posed(
        self,
        module: nn.Module,
        parts: tuple[Tensor, ...],
        targets: Tensor,
        patients: Tensor | None,
        chance: torch.Generator,
    ) -> Posed:
        """What is trained on where a batch of examples was drawn: the same, unless the task adds.

        What it adds has to be of the patient for whom it is added, as long as patients are told
        apart; where they are None and it adds, each example is told apart from then on.

        Args:
            module: as it is trained, with what `headed` has added.
            parts: [B, ...] each.
            targets: [B, ...].
            patients: int64 [B] where they are the unit.
            chance: to draw from.
        """
        return parts, targets, patients

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Each example's own loss [B]; nothing in it depends on another example.

        Args:
            outputs: of the model, [B, ...].
            targets: [B, ...].
            weights: of the classes [K], where the study balances them.
        """
        ...

    def predictions(self, outputs: Tensor) -> Tensor:
        """What `count` and a person take, from a model's outputs [B, ...]; float64."""
        ...

    def count(self, predictions: NDArray[Any], targets: NDArray[Any]) -> Counts:
        """The counts of one set of predictions, [L]; N may be 0.

        Raises:
            RunError: a prediction is not finite: the model has diverged.
        """
        ...

    def metrics(self, counts: Counts) -> Metrics:
        """The metrics of summed counts; None where a metric is undefined."""
        ...

    def tally(self, targets: NDArray[Any]) -> dict[str, int]:
        """How many of the examples have what, in words of the study."""
        ...
