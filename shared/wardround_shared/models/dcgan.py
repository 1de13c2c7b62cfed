"""A generator of images and the discriminator that it is trained against.

After DCGAN (Radford et al. 2016), with group norm in place of batch norm, which mixes examples, and
upsampling by interpolation in the generator (Odena et al. 2016).

B = examples in the batch, C = image channels, H, W = pixels, w = width, L = halvings, Z = latent
numbers, K = classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from wardround_shared.errors import StudyError
from wardround_shared.models.cnn import ChannelsFirst
from wardround_shared.models.shapes import require_image
from wardround_shared.study import DcGan

_GROUPS = 4
_SMALLEST = 8
# Both sides of the smallest map are at least this.
_BASE = 4
_MOST_HALVINGS = 5
_SLOPE = 0.2


class Discriminator(nn.Module):
    """How real an image looks as one of each class: [B, C, H, W] in 0..1 -> logits [B, K].

    One output for each class (Mescheder et al. 2018, "Which training methods for GANs do actually
    converge?"). L convolutions with stride 2 of w, 2 w, 4 w, ... channels, and a dense layer.
    """

    def __init__(self, *, width: int, channels: int, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        height, across = size
        for level in range(_halvings(size)):
            after = width * 2**level
            layers += [ChannelsFirst(), nn.Conv2d(before, after, 4, stride=2, padding=1)]
            layers += [nn.GroupNorm(_GROUPS, after)] if level else []
            layers += [nn.LeakyReLU(_SLOPE)]
            before, height, across = after, height // 2, across // 2
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.output = nn.Linear(before * height * across, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K]."""
        logits: Tensor = self.output(self.features(2.0 * images - 1.0))
        return logits


class Generator(nn.Module):
    """Images [B, C, H, W] in 0..1 from latent numbers [B, Z] and classes (int64 [B]).

    A dense layer, L times upsampling and a convolution of ... 2 w, w, w channels, and one
    convolution more.
    """

    def __init__(
        self, *, width: int, latent: int, channels: int, size: tuple[int, int], classes: int
    ) -> None:
        super().__init__()
        self._size, self._classes = size, classes
        levels = _halvings(size)
        self._base = tuple(-(-length // 2**levels) for length in size)
        before = width * 2 ** (levels - 1)
        self._widest = before
        self.dense = nn.Linear(latent + classes, before * self._base[0] * self._base[1])
        layers: list[nn.Module] = [nn.GroupNorm(_GROUPS, before), nn.ReLU()]
        for level in reversed(range(levels)):
            after = width * 2 ** max(level - 1, 0)
            layers += [
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(before, after, 3, padding=1),
                nn.GroupNorm(_GROUPS, after),
                nn.ReLU(),
            ]
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, channels, 3, padding=1))

    def forward(self, latent: Tensor, classes: Tensor) -> Tensor:
        """Images [B, C, H, W]."""
        which = functional.one_hot(classes, self._classes).to(latent.dtype)
        seed = self.dense(torch.cat([latent, which], dim=1))
        images = self.layers(seed.view(-1, self._widest, *self._base))
        height, width = self._size
        made: Tensor = torch.sigmoid(images[:, :, :height, :width])
        return made


class DcGanModel(nn.Module):
    """Both networks; a call asks the discriminator: [B, C, H, W] -> logits [B, K].

    The generator's parameters take no part in a site's training: only `training_generator` of the
    server moves them, and it looks at no image of a patient (Augenstein et al. 2020).
    """

    def __init__(self, model: DcGan, *, channels: int, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.latent, self.classes = model.latent, classes
        self.discriminator = Discriminator(
            width=model.width, channels=channels, size=size, classes=classes
        )
        self.generator = Generator(
            width=model.generator_width,
            latent=model.latent,
            channels=channels,
            size=size,
            classes=classes,
        )
        self.generator.requires_grad_(False)

    def forward(self, main: Tensor) -> Tensor:
        """How real images look, as one of each class [B, K]."""
        logits: Tensor = self.discriminator(main)
        return logits

    def made(self, classes: Tensor, chance: torch.Generator) -> Tensor:
        """Images [B, C, H, W] of these classes (int64 [B]), from latent numbers drawn here."""
        latent = torch.randn(len(classes), self.latent, generator=chance, device=chance.device)
        images: Tensor = self.generator(latent.to(classes.device), classes)
        return images


def _halvings(size: tuple[int, int]) -> int:
    """How often both sides are halved."""
    halvings = 1
    while min(size) // 2 ** (halvings + 1) >= _BASE and halvings < _MOST_HALVINGS:
        halvings += 1
    return halvings


def build_dcgan(model: DcGan, shapes: tuple[tuple[int, ...], ...], classes: int) -> DcGanModel:
    """Check the shapes and build the model.

    Raises:
        StudyError: the examples are no images alone, or too small ones.
    """
    require_image("dcgan", shapes[0], smallest=_SMALLEST, remedy="add or change a resize step")
    if len(shapes) > 1:
        raise StudyError("model.name: dcgan takes images alone; leave data.static out.")
    channels, height, width = shapes[0]
    return DcGanModel(model, channels=channels, size=(height, width), classes=classes)
