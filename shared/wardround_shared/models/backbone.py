"""Deep convolutional networks for images, taken from MONAI, without batch norm.

B = examples in the batch, C = image channels, H, W = pixels, S = static features, F = features of
the network, K = outputs.
"""

from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.resnet import ResNet
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from wardround_shared.models.shapes import require_image
from wardround_shared.models.static import static_size, with_static
from wardround_shared.study import Backbone

# The networks halve height and width five times.
_SMALLEST = 32
_DENSENET_BLOCKS, _DENSENET_FEATURES = {"densenet121": (6, 12, 24, 16)}, 1024
_RESNETS = {
    "resnet18": ("basic", [2, 2, 2, 2], 512),
    "resnet50": ("bottleneck", [3, 4, 6, 3], 2048),
}


class BackboneModel(nn.Module):
    """A network that ends in F features, and one dense layer.

    Inputs: main [B, C, H, W] with H, W >= 32, static [B, S] if there is one, joined at the dense
    layer; output [B, K]. ResNet (He et al. 2016) has F = 512 or 2048, DenseNet-121 (Huang et al.
    2017) F = 1024. Opacus puts group norm (Wu & He 2018) in the place of each batch norm, with 32
    groups where the channels allow it.
    """

    def __init__(self, model: Backbone, *, channels: int, static: int, outputs: int) -> None:
        super().__init__()
        self._static = static
        network, features = _network(model.name, channels)
        self.network = ModuleValidator.fix(network)
        self.dropout = nn.Dropout(model.dropout) if model.dropout else nn.Identity()
        self.output = nn.Linear(features + static, outputs)

    def forward(self, main: Tensor, static: Tensor | None = None) -> Tensor:
        """Logits [B, K]."""
        features = with_static(self.network(main).flatten(1), static, self._static)
        logits: Tensor = self.output(self.dropout(features))
        return logits


def _network(name: str, channels: int) -> tuple[nn.Module, int]:
    """The network and its F."""
    if name in _DENSENET_BLOCKS:
        dense = DenseNet(2, channels, out_channels=1, block_config=_DENSENET_BLOCKS[name])
        dense.class_layers.out = nn.Identity()
        return dense, _DENSENET_FEATURES
    block, layers, features = _RESNETS[name]
    widths = [64, 128, 256, 512]
    # A first convolution with stride 2 and no bias beside a norm, as for photographs.
    network = ResNet(
        block,
        layers,
        widths,
        spatial_dims=2,
        n_input_channels=channels,
        conv1_t_stride=2,
        feed_forward=False,
        bias_downsample=False,
    )
    return network, features


def build_backbone(
    model: Backbone, shapes: tuple[tuple[int, ...], ...], outputs: int
) -> BackboneModel:
    """Check the shapes and build the model.

    Raises:
        StudyError: the examples are no images, or too small.
    """
    require_image(
        model.name, shapes[0], smallest=_SMALLEST, remedy="add or change a resize step, or take cnn"
    )
    return BackboneModel(model, channels=shapes[0][0], static=static_size(shapes), outputs=outputs)
