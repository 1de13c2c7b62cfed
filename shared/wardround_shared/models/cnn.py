"""A small convolutional network for images.

B = examples in the batch, C = image channels, H, W = pixels, S = static features, w = width,
D = dense features, K = outputs.
"""

import torch
from torch import Tensor, nn

from wardround_shared.models.shapes import require_image
from wardround_shared.models.static import static_size, with_static
from wardround_shared.study import Cnn

# Of every group norm: widths are multiples of 4 so that any width divides.
_GROUPS = 4
# Height and width of the last feature map, whatever the image measures.
_LAST = 4
# Two poolings leave a pixel or more of each quarter of the last feature map.
_SMALLEST = 8


class ChannelsFirst(nn.Module):
    """Lays the input of a convolution out as [B, C, H, W] in memory too; the values stay.

    Opacus 1.6 computes per-example gradients of a convolution by strides of that layout without
    looking at the true ones, so with any other its gradients, and with them the clipping, are
    wrong without a word.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Shape and values of the input."""
        return features.contiguous()


class CnnModel(nn.Module):
    """Three 3x3 convolutions with group norm and ReLU, two poolings, a dense layer.

    Inputs: main [B, C, H, W] with H, W >= 8, static [B, S] if there is one, joined at the dense
    layer; output [B, K]. The convolutions have w, 2w and 2w channels and keep height and width,
    max pooling halves them twice, and the mean over a 4x4 grid makes the dense layer independent
    of the image's size. The parameters number

        (9 C w + 3 w) + (18 w w + 6 w) + (36 w w + 6 w) + ((32 w + S) D + D) + (D K + K).

    Pooling comes before group norm and ReLU: it commutes with ReLU, and both then work on a
    quarter of the values, which makes up a good part of a training step on a CPU.
    """

    def __init__(self, model: Cnn, *, channels: int, static: int, outputs: int) -> None:
        super().__init__()
        self._static = static
        width = model.width
        self.features = nn.Sequential(
            *_block(channels, width, pool=True),
            *_block(width, 2 * width, pool=True),
            *_block(2 * width, 2 * width, pool=False),
            nn.AdaptiveAvgPool2d(_LAST),
            nn.Flatten(),
        )
        # The layout of its weights decides how a convolution works and what layout it returns;
        # with the channels last a training step takes two thirds of the time on a CPU, the way
        # back to channels first included. Values and shapes are the same.
        self.features.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # not in torch's stubs
        self.dense = nn.Linear(2 * width * _LAST**2 + static, model.dense)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout(model.dropout) if model.dropout else nn.Identity()
        self.output = nn.Linear(model.dense, outputs)

    def forward(self, main: Tensor, static: Tensor | None = None) -> Tensor:
        """Logits [B, K]."""
        features = with_static(self.features(main), static, self._static)
        logits: Tensor = self.output(self.dropout(self.activation(self.dense(features))))
        return logits


def _block(before: int, after: int, *, pool: bool) -> list[nn.Module]:
    pooling = [nn.MaxPool2d(2)] if pool else []
    convolution = nn.Conv2d(before, after, kernel_size=3, padding=1)
    return [ChannelsFirst(), convolution, *pooling, nn.GroupNorm(_GROUPS, after), nn.ReLU()]


def build_cnn(model: Cnn, shapes: tuple[tuple[int, ...], ...], outputs: int) -> CnnModel:
    """Check the shapes and build the model.

    Raises:
        StudyError: the examples are no images, or too small for two poolings.
    """
    require_image(model.name, shapes[0], smallest=_SMALLEST, remedy="add or change a resize step")
    return CnnModel(model, channels=shapes[0][0], static=static_size(shapes), outputs=outputs)
