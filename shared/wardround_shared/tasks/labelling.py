"""One class for each step of a sequence. B = batch, N = examples, T = steps, K = classes."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wardround_shared.evaluation import LARGEST_LOSS, count, counts_length, metrics
from wardround_shared.tasks.task import Counts, Metrics, Task

NO_CLASS = -1
"""The label of a step that is neither trained on nor counted."""


@dataclass(frozen=True)
class Labelling(Task):
    """Softmax over K logits for each step; targets are int64 [N, T], or `NO_CLASS`.

    What is counted are steps, in the form of a classification.

    Attributes:
        length: T.
    """

    classes: tuple[str, ...]
    length: int

    @property
    def outputs(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def answers(self) -> Literal["step"]:
        """An answer for each step."""
        return "step"

    @property
    def counts_length(self) -> int:
        """See `Task.counts_length`."""
        return counts_length(len(self.classes))

    @property
    def largest_count(self) -> int:
        """All steps of an example may be in one cell."""
        return self.length

    @property
    def largest_loss(self) -> float:
        """See `Task.largest_loss`."""
        return LARGEST_LOSS * self.length

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Sum over the steps with a class, divided by T whatever their number, [B].

        So each step weighs the same in every example.
        """
        by_class = outputs.transpose(1, 2)
        return functional.cross_entropy(
            by_class, targets, weight=weights, reduction="none", ignore_index=NO_CLASS
        ).mean(dim=1)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probabilities [B, T, K]."""
        return torch.softmax(outputs.double(), dim=2)

    def count(self, predictions: NDArray[Any], targets: NDArray[Any]) -> Counts:
        """See `Task.count`; of the steps that have a class."""
        known = targets != NO_CLASS
        return count(predictions.reshape(*targets.shape, self.outputs)[known], targets[known])

    def metrics(self, counts: Counts) -> Metrics:
        """See `evaluation.metrics`; n is a number of steps."""
        return metrics(counts, self.classes)

    def tally(self, targets: NDArray[Any]) -> dict[str, int]:
        """Steps of each class."""
        numbers = np.bincount(targets[targets != NO_CLASS], minlength=self.outputs)
        return dict(zip(self.classes, numbers.tolist(), strict=True))
