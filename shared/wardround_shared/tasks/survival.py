"""Time to an event: proportional hazards. B = batch, N = examples, J = intervals, L = counts.

Cox's partial likelihood (1972) compares every patient with all others who were still at risk. No
site has those others, and a loss that ties patients together cannot be clipped by patient. The
model is the same, a baseline hazard times exp(risk), with a baseline that is constant on each of J
intervals (Friedman 1982, "Piecewise exponential models for survival data with covariates"): its
full likelihood is a sum over patients, who each contribute on their own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wardround_shared.evaluation import LARGEST_LOSS, require_finite
from wardround_shared.tasks.task import Counts, Metrics, Task

TIMES, RISKS = 32, 128
"""Bins of time and of risk that an example is counted in."""

_HEAD = 2
# Of the log of the relative hazard, either way.
_LARGEST_RISK = 8.0
# Beyond it, either way, exp overflows in float32, and times no exposure is no number.
_LARGEST_LOG_HAZARD = 30.0


class Baseline(nn.Module):
    """A network's risk [B, 1], and beside it the log of the baseline hazards: [B, 1 + J].

    Hazards are by horizon: 0 is one event expected over the horizon. They are the weights of a
    linear layer on ones, so that whatever tells examples apart by layer also does so here.
    """

    def __init__(self, network: nn.Module, intervals: int) -> None:
        super().__init__()
        self.network = network
        self.hazards = nn.Linear(1, intervals, bias=False)
        nn.init.zeros_(self.hazards.weight)

    def forward(self, *parts: Tensor) -> Tensor:
        """Log relative hazard and log baseline hazards [B, 1 + J]."""
        risk = self.network(*parts)
        return torch.cat([risk, self.hazards(torch.ones_like(risk))], dim=1)


@dataclass(frozen=True)
class ProportionalHazards(Task):
    """Targets are float32 [N, 2]: time, in the study's unit, and 1 if the event was seen then.

    Attributes:
        horizon: later times count as not seen until here.
        intervals: J, of equal length up to the horizon.
    """

    horizon: float
    intervals: int

    @property
    def outputs(self) -> int:
        """The risk; the baseline is the head's."""
        return 1

    @property
    def counts_length(self) -> int:
        """Examples and loss, then for seen and unseen events bins of time by bins of risk."""
        return _HEAD + 2 * TIMES * RISKS

    def headed(self, network: nn.Module) -> nn.Module:
        """The network with a baseline hazard."""
        return Baseline(network, self.intervals)

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Negative log-likelihood [B], in units of the horizon."""
        risk, hazards = outputs[:, :1], outputs[:, 1:]
        time, seen = self._censored(targets)
        start = torch.arange(self.intervals, device=outputs.device) / self.intervals
        exposure = (time.unsqueeze(1) - start).clamp(0.0, 1.0 / self.intervals)  # [B, J]
        # The interval that the event is in; one at a border belongs to the earlier.
        place = (time * self.intervals).ceil().long().sub(1).clamp(0, self.intervals - 1)
        log_hazards = (hazards + risk).clamp(-_LARGEST_LOG_HAZARD, _LARGEST_LOG_HAZARD)
        log_hazard = log_hazards.gather(1, place.unsqueeze(1)).squeeze(1)
        return (torch.exp(log_hazards) * exposure).sum(dim=1) - seen * log_hazard

    def predictions(self, outputs: Tensor) -> Tensor:
        """The outputs [B, 1 + J] in double precision."""
        return outputs.double()

    def survival(self, predictions: NDArray[Any], times: NDArray[Any]) -> NDArray[np.float64]:
        """Probability [N, T] that the event is not seen until each of the times.

        Args:
            predictions: [N, 1 + J].
            times: [T], in the study's unit, up to the horizon.
        """
        start = np.arange(self.intervals) / self.intervals
        share = np.asarray(times, dtype=np.float64) / self.horizon
        exposure = np.clip(share[:, None] - start, 0.0, 1.0 / self.intervals)  # [T, J]
        log_hazards = predictions[:, :1] + predictions[:, 1:]  # [N, J]
        hazards = np.exp(np.clip(log_hazards, -_LARGEST_LOG_HAZARD, _LARGEST_LOG_HAZARD))
        probabilities: NDArray[np.float64] = np.exp(-hazards @ exposure.T)
        return probabilities

    def count(self, predictions: NDArray[Any], targets: NDArray[Any]) -> Counts:
        """See `Task.count`; an example falls into one bin by time, risk and whether it was seen."""
        counts = np.zeros(self.counts_length)
        if not len(targets):
            return counts
        require_finite(predictions)
        risks = np.clip(predictions[:, 0], -_LARGEST_RISK, _LARGEST_RISK)
        risk = ((risks + _LARGEST_RISK) / (2.0 * _LARGEST_RISK) * RISKS).astype(int)
        time, seen = (part.numpy() for part in self._censored(torch.as_tensor(targets)))
        # Shorter bins early, where most events are: pairs in one bin are not compared.
        when = np.minimum((np.sqrt(time) * TIMES).astype(int), TIMES - 1)
        cell = ((seen > 0) * TIMES + when) * RISKS + np.minimum(risk, RISKS - 1)
        losses = self.loss(torch.as_tensor(predictions), torch.as_tensor(targets).double(), None)
        counts[_HEAD:] = np.bincount(cell, minlength=2 * TIMES * RISKS)
        counts[:_HEAD] = len(targets), losses.clamp(-LARGEST_LOSS, LARGEST_LOSS).sum().item()
        return counts

    def metrics(self, counts: Counts) -> Metrics:
        """Harrell's C-index (1982) over all sites, events, loss and n.

        Of two patients the one whose event was seen in an earlier bin of time than the other's end
        should have the higher risk; the same bin of risk counts half.
        """
        n, loss = counts[:_HEAD].tolist()
        censored, seen = counts[_HEAD:].reshape(2, TIMES, RISKS)
        later = np.zeros(RISKS)
        right = pairs = 0.0
        for time in reversed(range(TIMES)):
            below = np.cumsum(later) - later / 2.0
            right += float(seen[time] @ below)
            pairs += float(seen[time].sum() * later.sum())
            later += seen[time] + censored[time]
        return {
            "c_index": right / pairs if pairs else None,
            "events": round(float(seen.sum())),
            "loss": loss / n if n else None,
            "n": round(n),
        }

    def tally(self, targets: NDArray[Any]) -> dict[str, int]:
        """Events that were seen until the horizon, and all others."""
        _, seen = self._censored(torch.as_tensor(targets))
        events = int(seen.sum())
        return {"event": events, "no event": len(targets) - events}

    def _censored(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Time over horizon, at most 1, and whether the event was seen until then, [B] each."""
        time, seen = targets[:, 0] / self.horizon, targets[:, 1]
        return time.clamp(max=1.0), seen * (time <= 1.0)
