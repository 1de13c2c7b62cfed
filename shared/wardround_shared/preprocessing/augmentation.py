"""Random change of training batches, on whatever device they are.

B = examples in the batch, C = channels, H, W = pixels, T = samples in time.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from wardround_shared.study import Augment


class Augmentation:
    """One draw per example; the same generator state gives the same batch.

    Images are flipped, rotated, scaled in size and shifted in one resampling; what comes in from
    outside repeats the border pixel, because zero means black in one recipe and the mean in
    another. Signals are shifted in time, their ends repeated, and scaled in amplitude. Numbers
    are drawn on the generator's device, so that a CPU generator gives a GPU the same batch.
    Static features stay as they are, and no example ever mixes with another one. A mask moves with
    its image; a pixel of it takes the class of the nearest one.
    """

    def __init__(self, step: Augment, *, images: bool, masks: bool = False) -> None:
        self._step = step
        self._images = images
        self._masks = masks

    def __call__(
        self, inputs: tuple[Tensor, ...], targets: Tensor, generator: torch.Generator
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Augment `(main, ...)`: main is [B, C, H, W] or [B, C, T]; B may be 0.

        Targets are [B, H, W] where they are masks, and otherwise stay as they are.
        """
        main, *static = inputs
        if len(main):
            if self._images:
                main, targets = self._move_image(main, targets, generator)
            else:
                main = self._move_signal(main, generator)
            if self._step.noise:
                noise = torch.randn(main.shape, generator=generator, device=generator.device)
                main = main + self._step.noise * noise.to(main.device)
        return (main, *static), targets

    def _move_image(
        self, images: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        step = self._step
        draws = _draws(len(images), 5, generator).to(images.device)
        mirrored = (draws[:, 0] < 0) & step.flip
        if not (step.rotate or step.scale or step.shift):
            moved = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
            if self._masks:
                targets = torch.where(mirrored[:, None, None], targets.flip(-1), targets)
            return moved, targets
        theta = self._affine(draws, mirrored, images.shape[-2] / images.shape[-1])
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        moved = functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        if self._masks:
            masks = targets.unsqueeze(1).to(images.dtype)
            masks = functional.grid_sample(
                masks, grid, mode="nearest", padding_mode="border", align_corners=False
            )
            targets = masks.squeeze(1).to(targets.dtype)
        return moved, targets

    def _affine(self, draws: Tensor, mirrored: Tensor, aspect: float) -> Tensor:
        """Maps [B, 2, 3] from new to old places, each axis of the image running from -1 to 1."""
        step = self._step
        angle = draws[:, 1] * math.radians(step.rotate)
        factor = 1.0 / (1.0 + draws[:, 2] * step.scale)
        sign = 1.0 - 2.0 * mirrored.to(draws.dtype)
        sine, cosine = angle.sin() * factor, angle.cos() * factor
        # Both axes count as 2 long whatever their pixels: the aspect keeps a rotation rigid.
        across = torch.stack(
            [sign * cosine, -sign * sine * aspect, 2.0 * step.shift * draws[:, 3]], 1
        )
        down = torch.stack([sine / aspect, cosine, 2.0 * step.shift * draws[:, 4]], 1)
        return torch.stack([across, down], 1)

    def _move_signal(self, signals: Tensor, generator: torch.Generator) -> Tensor:
        step = self._step
        draws = _draws(len(signals), 2, generator).to(signals.device)
        if step.shift:
            length = signals.shape[-1]
            by = (draws[:, 0] * step.shift * length).round().long()
            place = (torch.arange(length, device=signals.device) - by[:, None]).clamp(0, length - 1)
            signals = signals.gather(-1, place[:, None, :].expand_as(signals))
        if step.scale:
            signals = signals * (1.0 + step.scale * draws[:, 1, None, None])
        return signals


def _draws(count: int, each: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers [count, each] in [-1, 1)."""
    return 2.0 * torch.rand(count, each, generator=generator, device=generator.device) - 1.0
