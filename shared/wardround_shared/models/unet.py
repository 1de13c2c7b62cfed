"""The U-Net for segmentation and localisation, taken from MONAI, without batch norm.

B = examples in the batch, C = image channels, H, W = pixels, w = first channels, K = outputs.
"""

from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn

from wardround_shared.errors import StudyError
from wardround_shared.models.shapes import require_image
from wardround_shared.study import UNet

# Four halvings, and something left to see below.
_SMALLEST = 32
_HALVINGS = 4


class UNetModel(nn.Module):
    """U-Net (Ronneberger et al. 2015) with four halvings and two convolutions on each level.

    Inputs: main [B, C, H, W] with H, W >= 32 and multiples of 16; output [B, K, H, W]. The levels
    have w, w, 2 w, 4 w and 8 w channels, group norm (Wu & He 2018) of four groups, and go up again
    by interpolation: a transposed convolution leaves a chequered pattern (Odena et al. 2016), and
    has no gradients by example in Opacus.
    """

    def __init__(self, model: UNet, *, channels: int, outputs: int) -> None:
        super().__init__()
        w = model.width
        self.network = BasicUNet(
            spatial_dims=2,
            in_channels=channels,
            out_channels=outputs,
            features=(w, w, 2 * w, 4 * w, 8 * w, w),
            # In place, it would overwrite what gradients by example are made of.
            act=("LeakyReLU", {"negative_slope": 0.1, "inplace": False}),
            norm=("group", {"num_groups": 4}),
            dropout=model.dropout,
            upsample="nontrainable",
        )

    def forward(self, main: Tensor) -> Tensor:
        """Logits [B, K, H, W]."""
        logits: Tensor = self.network(main)
        return logits


def build_unet(model: UNet, shapes: tuple[tuple[int, ...], ...], outputs: int) -> UNetModel:
    """Check the shapes and build the model.

    Raises:
        StudyError: the examples are no images, too small, or of a size that cannot be halved.
    """
    require_image("unet", shapes[0], smallest=_SMALLEST, remedy="add or change a resize step")
    channels, *size = shapes[0]
    if any(length % 2**_HALVINGS for length in size) or len(shapes) > 1:
        raise StudyError(
            f"model.name: unet takes images alone whose sides are multiples of {2**_HALVINGS}, and "
            f"the examples have shape {shapes[0]}; add or change a resize step."
        )
    return UNetModel(model, channels=channels, outputs=outputs)
