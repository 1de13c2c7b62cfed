"""One class of several for each example. B = examples in a batch, N = examples, K = classes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wardround_shared.evaluation import count, counts_length, metrics
from wardround_shared.tasks.task import Counts, Metrics, Task


@dataclass(frozen=True)
class Classification(Task):
    """Softmax over K logits, cross-entropy; targets are int64 [N], the number of the class."""

    classes: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def counts_length(self) -> int:
        """See `Task.counts_length`."""
        return counts_length(len(self.classes))

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """See `Task.loss`."""
        return functional.cross_entropy(outputs, targets, weight=weights, reduction="none")

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probabilities [B, K]."""
        return torch.softmax(outputs.double(), dim=1)

    def count(self, predictions: NDArray[Any], targets: NDArray[Any]) -> Counts:
        """See `Task.count`."""
        return count(predictions.reshape(-1, self.outputs), targets)

    def metrics(self, counts: Counts) -> Metrics:
        """See `evaluation.metrics`."""
        return metrics(counts, self.classes)

    def tally(self, targets: NDArray[Any]) -> dict[str, int]:
        """Examples of each class."""
        numbers = np.bincount(targets, minlength=self.outputs)
        return dict(zip(self.classes, numbers.tolist(), strict=True))
