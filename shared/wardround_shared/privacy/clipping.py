"""Opacus' optimiser with exact clipping of units, our forms of gradients, and our noise.

Shape letters: U = units, P = all parameters, P... = shape of one.
"""

import math

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor

from wardround_shared.privacy.gradients import Together, recorded
from wardround_shared.privacy.noise import NoiseSource
from wardround_shared.privacy.units import Units

# Float32 norms are rounded: clipping this much lower keeps the bound despite it.
_ROUNDING = 2e-6

_NOISE_AT_ONCE = 1 << 13


class NoisyOptimiser(DPOptimizer):  # type: ignore[misc]  # Opacus has no types
    """Wraps an optimiser: `add_clipped` for each part of a batch, then `step`, then `forget`.

    Args:
        optimiser: steps on the noised mean.
        noise: where the noise is drawn from.
        noise_multiplier: noise standard deviation over max_grad_norm.
        max_grad_norm: L2 bound on one unit's gradient.
        expected_batch_size: expected number of units.
    """

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        *,
        noise: NoiseSource,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch_size: float,
    ) -> None:
        super().__init__(
            optimiser,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,
            loss_reduction="sum",  # add_noise divides
        )
        self._noise = noise
        self._parameters = list(self.params)
        self._sizes = [p.numel() for p in self._parameters]
        self._sum: Tensor | None = None
        self._drawn: list[Tensor] = []
        for group in optimiser.param_groups:
            if group.get("foreach") is None:
                group["foreach"] = True  # one call for all parameters

    def add_clipped(self, units: Units) -> None:
        """Add each unit's gradient, scaled to a norm of at most max_grad_norm, to the sums.

        A unit whose gradient, or its norm, is not finite adds zero, and the others add what they
        would without it. It is no error: that would tell whoever sees the training fail that this
        unit is there, and no noise would hide it.

        Raises:
            PrivacyError: a parameter has no gradients of units, whoever they are.
        """
        gradients = [recorded(p, units) for p in self._parameters]
        for p in self._parameters:
            p.grad_sample = None
        together = Together.of(gradients)
        norms = together.squared_norms().sqrt()  # [U]
        if not math.isfinite(norms.sum().item()):
            lost = ~norms.isfinite()
            together, norms = together.without(lost), norms.masked_fill(lost, 0.0)
        bound = self.max_grad_norm * (1.0 - _ROUNDING)
        added = together.weighted_sum(bound / norms.clamp_min(bound))
        self._sum = added if self._sum is None else self._sum + added

    def step(self, closure: None = None) -> None:
        """Step on the noised mean; the noise is as large as ever when nobody was added."""
        self.add_noise()
        self.original_optimizer.step()

    def add_noise(self) -> None:
        """Put (sum + noise) / expected batch size where the wrapped optimiser looks for gradients.

        All parameters at once: on small models the many small operations would take the time.
        """
        noise = self._draw()
        mean = noise if self._sum is None else self._sum + noise
        mean /= self.expected_batch_size
        for p, part in zip(self._parameters, mean.split(self._sizes), strict=True):
            p.grad = part.view(p.shape)

    def _draw(self) -> Tensor:
        """Noise for one step, [P], never given twice.

        A small model's is drawn for many steps at once, to ask for it would take longer than to
        draw it.
        """
        if not self._drawn:
            first, size = self._parameters[0], sum(self._sizes)
            steps = max(1, _NOISE_AT_ONCE // size)
            std = self.noise_multiplier * self.max_grad_norm
            drawn = self._noise.normal((steps, size), std, device=first.device, dtype=first.dtype)
            self._drawn = list(drawn.unbind(0))
        return self._drawn.pop()

    def forget(self) -> None:
        """Drop everything that was derived from examples, after a step or a failed one."""
        self._sum = None
        for p in self._parameters:
            p.grad = None
            p.grad_sample = None
