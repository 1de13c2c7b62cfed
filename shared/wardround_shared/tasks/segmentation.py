"""One class for each pixel. B = batch, N = examples, K = classes, H, W = pixels, L = counts."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wardround_shared.evaluation import LARGEST_LOSS, mean, require_finite
from wardround_shared.tasks.task import Counts, Metrics, Task

BINS = 1000
"""Dice scores from 0 to 1 are counted in so many steps, and 1 in one more."""

_HEAD = 2
# Images with the class by their Dice score; then images without it, clean and with a false mark.
_EACH = BINS + 1 + 2


@dataclass(frozen=True)
class Segmentation(Task):
    """Softmax over K logits for each pixel; targets are uint8 [N, H, W], the number of the class.

    The loss is cross-entropy plus one minus the soft Dice score (Milletari et al. 2016), a mean
    over all classes but the first, which is what is around them. Metrics are by image: a large
    structure in one image does not make up for a small one that was missed in another.
    """

    classes: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def answers(self) -> Literal["pixel"]:
        """An answer for each pixel."""
        return "pixel"

    @property
    def counts_length(self) -> int:
        """See `Task.counts_length`."""
        return _HEAD + _EACH * (self.outputs - 1)

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """See `Task.loss`; [B]."""
        labels = targets.long()
        entropy = functional.cross_entropy(outputs, labels, reduction="none").mean(dim=(1, 2))
        found = torch.softmax(outputs, dim=1)[:, 1:]
        true = functional.one_hot(labels, self.outputs).movedim(3, 1)[:, 1:].to(found.dtype)
        both = (found * true).sum(dim=(2, 3))
        all_ = found.sum(dim=(2, 3)) + true.sum(dim=(2, 3))
        # One pixel more of both: an image without the class has a Dice score too.
        dice = (2.0 * both + 1.0) / (all_ + 1.0)
        return entropy + 1.0 - dice.mean(dim=1)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probabilities [B, K, H, W]."""
        return torch.softmax(outputs.double(), dim=1)

    def count(self, predictions: NDArray[Any], targets: NDArray[Any]) -> Counts:
        """See `Task.count`; a pixel is of its most probable class."""
        counts = np.zeros(self.counts_length)
        if not len(targets):
            return counts
        require_finite(predictions)
        labels = torch.as_tensor(targets)
        logits = torch.as_tensor(predictions).clamp_min(1e-12).log()
        losses = self.loss(logits, labels, None).clamp(max=LARGEST_LOSS)
        counts[:_HEAD] = len(targets), losses.sum().item()
        found = predictions.argmax(axis=1)
        for k in range(1, self.outputs):
            start = _HEAD + (k - 1) * _EACH
            cells = start + _cells(found == k, targets == k)
            counts += np.bincount(cells, minlength=len(counts))
        return counts

    def metrics(self, counts: Counts) -> Metrics:
        """Means over the classes but the first, and the Dice score of each.

        dice is a mean over the images that have the class; specificity is the share of the others
        in which nothing is marked. Dice scores are known to a thousandth.
        """
        n, loss = counts[:_HEAD].tolist()
        dice, clean = [], []
        for k in range(1, self.outputs):
            start = _HEAD + (k - 1) * _EACH
            scores, (right, wrong) = np.split(counts[start : start + _EACH], [BINS + 1])
            with_it, without = scores.sum(), right + wrong
            dice.append(float(scores @ _middles() / with_it) if with_it else None)
            clean.append(float(right / without) if without else None)
        each = {f"dice {name}": one for name, one in zip(self.classes[1:], dice, strict=True)}
        return {
            "dice": mean(dice),
            "specificity": mean(clean),
            **(each if len(each) > 1 else {}),
            "loss": loss / n if n else None,
            "n": round(n),
        }

    def smallest_groups(self, counts: Counts) -> tuple[int, int]:
        """Fewest images that have a class, and that have it not, over the classes but the first."""
        cells = counts[_HEAD:].reshape(self.outputs - 1, _EACH)
        with_it, without = cells[:, : BINS + 1].sum(axis=1), cells[:, BINS + 1 :].sum(axis=1)
        return int(with_it.min()), int(without.min())

    def tally(self, targets: NDArray[Any]) -> dict[str, int]:
        """Images in which each class occurs, but for the first."""
        flat = targets.reshape(len(targets), -1)
        return {
            name: int((flat == k).any(axis=1).sum()) for k, name in enumerate(self.classes) if k > 0
        }


def _cells(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Which of the `_EACH` cells each image is in, [N]."""
    both = (found & true).sum(axis=(1, 2))
    marked, there = found.sum(axis=(1, 2)), true.sum(axis=(1, 2))
    score = (2 * BINS * both) // np.maximum(marked + there, 1)
    cells: NDArray[np.int64] = np.where(there > 0, score, BINS + 1 + (marked > 0))
    return cells


def _middles() -> NDArray[np.float64]:
    """Dice score that each step stands for: its middle, and 1 for the last."""
    return np.append((np.arange(BINS) + 0.5) / BINS, 1.0)
