"""Images that are made. B = batch, N = examples, K = classes, C, H, W = channels and pixels.

The discriminator is trained at the sites, the generator at the server against the discriminator
alone (Augenstein et al. 2020, "Generative models for effective ML on private, decentralized
datasets", algorithm 1): what is made costs no privacy beyond the discriminator's.
"""

from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from wardround_shared.evaluation import require_finite
from wardround_shared.models.dcgan import DcGanModel
from wardround_shared.tasks.features import FEATURES, LEVELS, RandomFeatures
from wardround_shared.tasks.frechet import distance, moments, moments_length
from wardround_shared.tasks.task import Counts, Metrics, Posed, Task

_HEAD = 2
# Below, covariances of so many features are mostly chance.
FEWEST = 2 * FEATURES
_LARGEST_LOGIT = 50.0


@dataclass(frozen=True)
class Generation(Task):
    """A discriminator's K logits, how real an image is as one of each class; logistic loss.

    Targets are int64 [N], the number k of the class of a real image; a made one has -1 - k.

    The counts are the number of real images, the loss on them and as many made ones, how many of
    both are taken for what they are, and the moments (frechet.py) of the features of both.
    """

    classes: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def counts_length(self) -> int:
        """See `Task.counts_length`."""
        return _HEAD + 2 + 2 * moments_length(FEATURES)

    @property
    def largest_count(self) -> int:
        """The square of a feature."""
        return LEVELS**2

    @property
    def largest_loss(self) -> float:
        """Of a real image and a made one, at the largest logit that is counted."""
        return 2.0 * (_LARGEST_LOGIT + 1.0)

    def headed(self, network: nn.Module) -> nn.Module:
        """The network, which makes images of its own while it is measured."""
        assert isinstance(network, DcGanModel)  # `check_combinations`
        return Measurable(network)

    def posed(
        self,
        module: nn.Module,
        parts: tuple[Tensor, ...],
        targets: Tensor,
        patients: Tensor | None,
        chance: torch.Generator,
    ) -> Posed:
        """A made image of the same class beside each real one.

        Under DP the two are of one patient and clipped as one: how many are made follows from who
        is drawn, so that what a made one adds must stay within the patient's bound.
        """
        assert isinstance(module, Measurable)
        if patients is None:
            patients = torch.arange(len(targets))
        with torch.no_grad():
            made = module.network.made(targets, chance)
        both = torch.cat([parts[0], made.to(parts[0].dtype)])
        return (both,), torch.cat([targets, -1 - targets]), torch.cat([patients, patients])

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Logistic loss of the logit of the image's class [B] (Goodfellow et al. 2014)."""
        made = targets < 0
        which = torch.where(made, -1 - targets, targets)
        logit = outputs.gather(1, which[:, None])[:, 0]
        return functional.softplus(torch.where(made, logit, -logit))

    def predictions(self, outputs: Tensor) -> Tensor:
        """What `Measurable` puts out in evaluation."""
        return outputs.double()

    def count(self, predictions: NDArray[Any], targets: NDArray[Any]) -> Counts:
        """See `Task.count`; predictions are [N, 2 K + (1 + K) F] as of `Measurable`."""
        if not len(targets):
            return np.zeros(self.counts_length)
        require_finite(predictions)
        n, k = len(targets), self.outputs
        every = np.arange(n)
        logits = predictions[:, : 2 * k].reshape(n, 2, k)[every, :, targets]
        features = predictions[:, 2 * k :].reshape(n, 1 + k, FEATURES)
        real, made = logits.clip(-_LARGEST_LOGIT, _LARGEST_LOGIT).T
        loss = np.logaddexp(0.0, -real).sum() + np.logaddexp(0.0, made).sum()
        return np.concatenate(
            [
                [n, loss, (real > 0).sum(), (made <= 0).sum()],
                moments(features[:, 0]),
                moments(features[every, 1 + targets]),
            ]
        )

    def metrics(self, counts: Counts) -> Metrics:
        """Fréchet distance, how often the discriminator is right, its loss."""
        n, loss, real, made = counts[: _HEAD + 2].tolist()
        of_real, of_made = counts[_HEAD + 2 :].reshape(2, -1)
        apart = distance(n, of_real, of_made, unit=LEVELS / 4.0) if n >= FEWEST else None
        return {
            "frechet": apart,
            "told_apart": (real + made) / (2 * n) if n else None,
            "loss": loss / n if n else None,
            "n": round(n),
        }

    def tally(self, targets: NDArray[Any]) -> dict[str, int]:
        """Examples of each class."""
        numbers = np.bincount(targets, minlength=self.outputs)
        return dict(zip(self.classes, numbers.tolist(), strict=True))


class Measurable(nn.Module):
    """A generator and its discriminator; in evaluation it says all that is counted.

    For each image: its K logits; K more, of a made image of each class as one of that class; its
    features; those of the made images: [B, 2 K + (1 + K) F].
    """

    def __init__(self, network: DcGanModel) -> None:
        super().__init__()
        self.network = network
        self.features = RandomFeatures()

    def forward(self, main: Tensor) -> Tensor:
        """The discriminator's logits [B, K], or in evaluation see above."""
        logits: Tensor = self.network(main)
        if self.training:
            return logits
        latent = _latent(main, self.network.latent).to(main.device)
        answers, features = [logits], [self.features(main)]
        for number in range(self.network.classes):
            which = torch.full((len(main),), number, device=main.device)
            made = self.network.generator(latent, which)
            answers.append(self.network(made)[:, number : number + 1])
            features.append(self.features(made))
        return torch.cat([*answers, *features], dim=1)


def _latent(images: Tensor, length: int) -> Tensor:
    """Latent numbers that follow from each image alone, float32 [B, Z].

    A checksum is no likeness: what is made of it is unrelated to the image. But a model is then
    measured alike on every machine, whatever else is in the batch.
    """
    rows = []
    for image in images.cpu().numpy():
        chance = torch.Generator().manual_seed(crc32(np.ascontiguousarray(image).tobytes()))
        rows.append(torch.randn(length, generator=chance))
    return torch.stack(rows)


def adversaries(module: nn.Module) -> DcGanModel:
    """The generator and its discriminator in a module that `Generation` has headed."""
    assert isinstance(module, Measurable)
    return module.network
