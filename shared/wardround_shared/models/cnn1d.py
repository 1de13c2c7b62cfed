"""A convolutional network for signals.

B = examples in the batch, C = channels (leads), T = samples in time, S = static features,
w = width, n = blocks, k = kernel, F = channels of the last block, D = dense features, K = outputs.
"""

import torch
from torch import Tensor, nn

from wardround_shared.models.shapes import require_signal
from wardround_shared.models.static import static_size, with_static
from wardround_shared.study import Cnn1d

# Of every group norm: widths are multiples of 4 so that any width divides.
_GROUPS = 4
# The channels double from block to block, up to so many times the first.
_WIDEST = 4


class Cnn1dModel(nn.Module):
    """Strided convolutions with group norm and ReLU, mean and maximum over time, a dense layer.

    Inputs: main [B, C, T], static [B, S] if there is one, joined at the dense layer; output
    [B, K]. Block i of n has w min(2^i, 4) channels and half the samples of the one before; any T
    will do. The parameters number, with c_i the channels of block i and c_-1 = C,

        sum over i of (c_(i-1) c_i k + 3 c_i), then (2 F + S) D + D, and D K + K.
    """

    def __init__(self, model: Cnn1d, *, channels: int, static: int, outputs: int) -> None:
        super().__init__()
        self._static = static
        self.features, features = strided_blocks(
            channels, width=model.width, blocks=model.blocks, kernel=model.kernel
        )
        self.dense = nn.Linear(2 * features + static, model.dense)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout(model.dropout) if model.dropout else nn.Identity()
        self.output = nn.Linear(model.dense, outputs)

    def forward(self, main: Tensor, static: Tensor | None = None) -> Tensor:
        """Logits [B, K]."""
        found = self.features(main)  # [B, F, T']
        # How much of something there is, and whether it is anywhere.
        features = torch.cat([found.mean(dim=2), found.amax(dim=2)], dim=1)
        features = with_static(features, static, self._static)
        logits: Tensor = self.output(self.dropout(self.activation(self.dense(features))))
        return logits


def strided_blocks(
    channels: int, *, width: int, blocks: int, kernel: int
) -> tuple[nn.Sequential, int]:
    """Convolutions that halve the samples each, [B, C, T] -> [B, F, T']; and F."""
    layers: list[nn.Module] = []
    before = channels
    for block in range(blocks):
        after = width * min(2**block, _WIDEST)
        layers += [
            nn.Conv1d(before, after, kernel_size=kernel, stride=2, padding=kernel // 2),
            nn.GroupNorm(_GROUPS, after),
            nn.ReLU(),
        ]
        before = after
    return nn.Sequential(*layers), before


def build_cnn1d(model: Cnn1d, shapes: tuple[tuple[int, ...], ...], outputs: int) -> Cnn1dModel:
    """Check the shapes and build the model.

    Raises:
        StudyError: the examples are no signals.
    """
    require_signal(model.name, shapes[0])
    return Cnn1dModel(model, channels=shapes[0][0], static=static_size(shapes), outputs=outputs)
