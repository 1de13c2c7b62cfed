"""Several findings at once, or none. B = batch, N = examples, K = findings, S = bins."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wardround_shared.evaluation import (
    confusion,
    count,
    counts_length,
    mean,
    metrics,
)
from wardround_shared.tasks.task import Counts, Metrics, Task

_HEAD = 2
_TWO = ("absent", "present")


@dataclass(frozen=True)
class MultiLabel(Task):
    """K sigmoids, binary cross-entropy; targets are uint8 [N, K], 1 where a finding is there.

    The counts are those of K classifications into two classes, one after the other, with the mean
    of their losses.
    """

    classes: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def counts_length(self) -> int:
        """See `Task.counts_length`."""
        return _HEAD + self.outputs * (counts_length(2) - _HEAD)

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Mean over the findings [B]."""
        return functional.binary_cross_entropy_with_logits(
            outputs, targets.to(outputs.dtype), reduction="none"
        ).mean(dim=1)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probability that each finding is not there, and that it is, [B, K, 2]."""
        logits = outputs.double()
        return torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=2)

    def count(self, predictions: NDArray[Any], targets: NDArray[Any]) -> Counts:
        """See `Task.count`."""
        if not len(targets):
            return np.zeros(self.counts_length)
        single = [
            count(predictions[:, k], targets[:, k].astype(np.int64)) for k in range(self.outputs)
        ]
        loss = sum(one[1] for one in single) / self.outputs
        return np.concatenate([[len(targets), loss], *(one[_HEAD:] for one in single)])

    def of_finding(self, counts: Counts, k: int) -> Counts:
        """The counts of one finding, as those of two classes; its loss is not known (0)."""
        width = counts_length(2) - _HEAD
        start = _HEAD + k * width
        return np.concatenate([[counts[0], 0.0], counts[start : start + width]])

    def metrics(self, counts: Counts) -> Metrics:
        """Means over the findings for which they exist, and the AUROC of each."""
        n, loss = counts[:_HEAD].tolist()
        single = [_of_one(self.of_finding(counts, k)) for k in range(self.outputs)]
        means = {name: mean([one[name] for one in single]) for name in single[0]}
        each = {
            f"auroc {name}": one["auroc"] for name, one in zip(self.classes, single, strict=True)
        }
        return means | each | {"loss": loss / n if n else None, "n": round(n)}

    def tally(self, targets: NDArray[Any]) -> dict[str, int]:
        """Examples with each finding; one may have several, or none."""
        numbers = targets.astype(np.int64).sum(axis=0)
        return dict(zip(self.classes, numbers.tolist(), strict=True))


def _of_one(counts: Counts) -> dict[str, float | None]:
    """Metrics of one finding; its F1 is that of "present" alone."""
    (_, false_alarms), (missed, hits) = confusion(counts, 2).tolist()
    wrong = false_alarms + missed
    both = metrics(counts, _TWO)
    return {
        "auroc": both["auroc"],
        "balanced_accuracy": both["balanced_accuracy"],
        "f1_macro": 2.0 * hits / (2.0 * hits + wrong) if hits + wrong else None,
        "sensitivity": both["sensitivity"],
        "specificity": both["specificity"],
    }
