"""Features of images that no data have shaped, to compare sets of images by.

A network with random weights that nobody trains compares images of any kind, where one trained on
photographs is of little use (Naeem et al. 2020, "Reliable fidelity and diversity metrics for
generative models", 4). B = batch, C = channels, H, W = pixels, F = features.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURES = 24
LEVELS = 32
"""A feature is a whole number from -32 to 32, for -4 to 4."""

_SIDE = 32
_CHANNELS = (16, 32)
_GRID = 4


class RandomFeatures(nn.Module):
    """Two convolutions, means over a grid, a projection; the same weights everywhere.

    They are no parameters: they are neither trained nor sent. Colours are averaged to grey.
    """

    def __init__(self) -> None:
        super().__init__()
        chance = np.random.Generator(np.random.PCG64(20200601))
        first, second = _CHANNELS
        shapes = {
            "first": (first, 1, 5, 5),
            "second": (second, first, 3, 3),
            "last": (FEATURES, second * _GRID**2),
        }
        for name, shape in shapes.items():
            values = chance.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
            self.register_buffer(name, torch.from_numpy(values).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in 0..1 -> whole numbers [B, F]."""
        grey = images.mean(dim=1, keepdim=True)
        seen = functional.interpolate(grey, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        first, second, last = (self.get_buffer(name) for name in ("first", "second", "last"))
        seen = functional.relu(functional.conv2d(2.0 * seen - 1.0, first, stride=2))
        seen = functional.relu(functional.conv2d(seen, second, stride=2))
        found = functional.adaptive_avg_pool2d(seen, _GRID).flatten(1) @ last.T
        found = functional.layer_norm(found, (FEATURES,))
        return (found * (LEVELS / 4.0)).clamp(-LEVELS, LEVELS).round()
