"""Where lesions are. B = batch, N = examples, M = lesions, P = marks, H, W = pixels, S = bins."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from wardround_shared.evaluation import require_finite
from wardround_shared.tasks.task import Counts, Metrics, Task

MARKS = 10
"""Marks of an image that are kept: its highest peaks."""

BINS = 512
FALSE_MARKS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False marks an image at which sensitivity is read off, as in LUNA16 (Setio et al. 2017)."""

_HEAD = 2
_LIMIT = 12.0
# Focal loss of Law & Deng 2018, "CornerNet", 3.2, on heat maps as in Zhou et al. 2019.
_ALPHA, _BETA = 2, 4
# Peaks that are nearer than this share of the image count as one.
_APART = 0.06


@dataclass(frozen=True)
class Localisation(Task):
    """A heat map of one logit for each pixel, whose peaks are marks.

    Targets are float32 [N, M, 3]: row and column of each lesion's centre as shares of height and
    width, and its radius as a share of the longer side, taken so along both; NaN where there is
    none.

    Attributes:
        most: M.
    """

    most: int

    @property
    def outputs(self) -> int:
        """One heat map."""
        return 1

    @property
    def answers(self) -> Literal["pixel"]:
        """An answer for each pixel."""
        return "pixel"

    @property
    def counts_length(self) -> int:
        """Images, loss, lesions, then found lesions and false marks by score."""
        return _HEAD + 1 + 2 * BINS

    @property
    def largest_count(self) -> int:
        """All lesions, or all marks, of an image."""
        return max(MARKS, self.most)

    def headed(self, network: nn.Module) -> nn.Module:
        """The network, with a heat map that is cold everywhere at first."""
        return _Cold(network)

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Focal loss over all pixels, by the number of lesions and one, [B]."""
        logits = outputs[:, 0]
        heat = _heat(targets, logits.shape[1], logits.shape[2]).to(logits.dtype)
        score = torch.sigmoid(logits)
        centre = heat >= 1.0
        found = (1.0 - score) ** _ALPHA * functional.logsigmoid(logits)
        cold = (1.0 - heat) ** _BETA * score**_ALPHA * functional.logsigmoid(-logits)
        total = torch.where(centre, found, cold).sum(dim=(1, 2))
        return -total / (1.0 + centre.sum(dim=(1, 2)))

    def predictions(self, outputs: Tensor) -> Tensor:
        """Marks [B, P, 3]: row and column as shares of height and width, and the logit there.

        The highest peaks first; what is no peak has the logit -inf.
        """
        logits = outputs.double()
        height, width = logits.shape[2:]
        reach = max(1, round(_APART * max(height, width)))
        highest = functional.max_pool2d(logits, 2 * reach + 1, stride=1, padding=reach)
        # A logit that is no number is no peak either, and must not go unseen.
        peak = (logits == highest) | logits.isnan()
        peaks = torch.where(peak, logits, -torch.inf).flatten(1)
        score, place = peaks.topk(min(MARKS, peaks.shape[1]), dim=1)
        row = (place // width + 0.5) / height
        column = (place % width + 0.5) / width
        return torch.stack([row, column, score], dim=2)

    def count(self, predictions: NDArray[Any], targets: NDArray[Any]) -> Counts:
        """See `Task.count`.

        A lesion is found by the highest mark within its radius; further ones there are neither
        hits nor false. The loss is not known from marks, and counts as 0.
        """
        counts = np.zeros(self.counts_length)
        if not len(targets):
            return counts
        require_finite(predictions[~np.isneginf(predictions)])  # what is no peak is -inf
        counts[0] = len(targets)
        for marks, lesions in zip(predictions, targets, strict=True):
            self._add(counts, marks[np.isfinite(marks[:, 2])], lesions[~np.isnan(lesions[:, 0])])
        return counts

    def _add(self, counts: Counts, marks: NDArray[Any], lesions: NDArray[Any]) -> None:
        """One image."""
        counts[_HEAD] += len(lesions)
        hits, false = counts[_HEAD + 1 :].reshape(2, BINS)
        found = np.zeros(len(lesions), dtype=bool)
        bins = bins_of(marks[:, 2])
        for (row, column, _), cell in zip(marks, bins, strict=True):  # the highest first
            near = np.hypot(lesions[:, 0] - row, lesions[:, 1] - column) <= lesions[:, 2]
            if not near.any():
                false[cell] += 1
            elif (new := near & ~found).any():
                found[new.argmax()] = True
                hits[cell] += 1

    def metrics(self, counts: Counts) -> Metrics:
        """FROC score: mean sensitivity at 1/8 to 8 false marks an image; and that at one."""
        images, _, lesions = counts[: _HEAD + 1].tolist()
        measured: Metrics = {"froc": None, "sensitivity": None}
        if images and lesions:
            false, found = froc(counts)
            score = float(np.interp(FALSE_MARKS, false, found).mean())
            measured = {"froc": score, "sensitivity": float(np.interp(1.0, false, found))}
        return measured | {"lesions": round(lesions), "n": round(images)}

    def tally(self, targets: NDArray[Any]) -> dict[str, int]:
        """Images with a lesion, and lesions."""
        there = ~np.isnan(targets[:, :, 0])
        return {"images with a lesion": int(there.any(axis=1).sum()), "lesions": int(there.sum())}


def froc(counts: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False marks an image and share of lesions found, [S + 1] each, for falling thresholds."""
    images, lesions = counts[0], counts[_HEAD]
    hits, false = counts[_HEAD + 1 :].reshape(2, BINS)
    found = np.concatenate([[0.0], np.cumsum(hits[::-1])]) / lesions
    wrong = np.concatenate([[0.0], np.cumsum(false[::-1])]) / images
    return wrong, found


def bins_of(logits: NDArray[Any]) -> NDArray[np.int64]:
    """The bin of score, 0 to S - 1, that each mark is counted in, [P]."""
    share = (np.clip(logits, -_LIMIT, _LIMIT) + _LIMIT) / (2.0 * _LIMIT)
    bins: NDArray[np.int64] = np.minimum((share * BINS).astype(np.int64), BINS - 1)
    return bins


class _Cold(nn.Module):
    """A network whose map begins at a chance of one in a hundred: nearly every pixel is empty."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, main: Tensor) -> Tensor:
        """Logits [B, 1, H, W]."""
        logits: Tensor = self.network(main) - 4.6
        return logits


def _heat(targets: Tensor, height: int, width: int) -> Tensor:
    """A Gaussian bump at each lesion, 1 at the pixel of its centre, [B, H, W]."""
    lesions = targets.nan_to_num(nan=-1e3)  # far away
    row = (lesions[:, :, 0] * height).floor()
    column = (lesions[:, :, 1] * width).floor()
    spread = (lesions[:, :, 2].clamp_min(0.0) * max(height, width) / 3.0).clamp_min(0.5)
    down = torch.arange(height, device=targets.device).view(1, 1, height) - row.unsqueeze(2)
    across = torch.arange(width, device=targets.device).view(1, 1, width) - column.unsqueeze(2)
    distance = down.square().unsqueeze(3) + across.square().unsqueeze(2)  # [B, M, H, W]
    return torch.exp(-distance / (2.0 * spread.square()[:, :, None, None])).amax(dim=1)
