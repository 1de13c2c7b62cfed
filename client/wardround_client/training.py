"""Local training and evaluation at a site.

The loop is the plain PyTorch loop: one gather per batch, forward, backward, step. Legend of
shapes: N = examples of the site, B = batch, K = classes, P = model parameters.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from wardround_client.account import Plan
from wardround_shared.evaluation import count, counts_length
from wardround_shared.messages import Floats
from wardround_shared.models import flatten
from wardround_shared.privacy.noise import NoiseSource
from wardround_shared.study import Privacy, Training

Augmentation = Callable[[tuple[Tensor, ...], torch.Generator], tuple[Tensor, ...]]
Step = Callable[[tuple[Tensor, ...], Tensor], None]

EVALUATION_BATCH = 128
"""Examples a forward pass; small enough for activations to stay in cache."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Prepared examples on the device: parts [N, ...] and labels int64 [N]."""

    parts: tuple[Tensor, ...]
    labels: Tensor

    def take(self, index: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The batch with these indices (int64 [B])."""
        # A third of the time of part[index].
        parts = tuple(part.index_select(0, index) for part in self.parts)
        return parts, self.labels.index_select(0, index)


@dataclass(frozen=True, kw_only=True)
class Protection:
    """DP-SGD for one round: the plan, the clipping norm and where noise comes from."""

    plan: Plan
    privacy: Privacy
    noise: NoiseSource


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """One site's training in one round, apart from data and model."""

    training: Training
    round: int
    seed: int
    class_counts: Floats
    augmentation: Augmentation | None
    protection: Protection | None


def local_seed(seed: int, site: str, round_number: int) -> int:
    """Seed of one site's shuffling in one round; unrelated between sites and rounds."""
    digest = hashlib.sha256(f"wardround/local-seed/{seed}/{site}/{round_number}".encode())
    return int.from_bytes(digest.digest()[:7], "big")


def train(
    module: nn.Module, examples: Examples, index: Tensor, settings: LocalTraining
) -> NDArray[np.float32]:
    """Train `module` in place; returns trained minus received parameters, float32 [P].

    Args:
        module: holds the received global model.
        examples: of the whole site.
        index: int64 [N'], the training split.
        settings: what the study asks of this round.
    """
    received = flatten(module)
    device = examples.labels.device
    _seed_dropout(device, settings.seed)
    shuffle = torch.Generator().manual_seed(settings.seed)
    change = torch.Generator(device=device).manual_seed(settings.seed)
    optimiser = _optimiser(module, settings)
    pull = settings.training.proximal * learning_rate(settings.training, settings.round)
    centre = [p.detach().clone() for p in module.parameters()] if pull else []
    module.train()
    with _step(module, optimiser, settings, _class_weights(settings, device), len(index)) as step:
        for batch in _batches(index, settings, shuffle):
            parts, labels = examples.take(batch.to(device))
            if settings.augmentation is not None and len(batch):
                parts = settings.augmentation(parts, change)
            step(parts, labels)
            if pull:
                _pull_back(module, centre, pull)
    delta: NDArray[np.float32] = (flatten(module) - received).cpu().numpy()
    return delta


def evaluate(module: nn.Module, examples: Examples, index: Tensor, classes: int) -> Floats:
    """Metric counts (float64 [L]) of `module` on the examples in `index` (int64)."""
    if not len(index):
        return np.zeros(counts_length(classes))
    module.eval()
    device = examples.labels.device
    probabilities = []
    with torch.inference_mode():
        for batch in index.split(EVALUATION_BATCH):
            parts, _ = examples.take(batch.to(device))
            probabilities.append(torch.softmax(module(*parts).double(), dim=1))
    scores = torch.cat(probabilities).cpu().numpy()
    return count(scores, examples.labels[index.to(device)].cpu().numpy())


def learning_rate(training: Training, round_number: int) -> float:
    """Learning rate of a round (1-based) by the study's schedule."""
    if training.learning_rate_schedule == "constant":
        return training.learning_rate
    progress = (round_number - 1) / training.rounds
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _seed_dropout(device: torch.device, seed: int) -> None:
    """Seed the generator that dropout on this device uses.

    `torch.manual_seed` would also note the call's stack for every kind of device there might be,
    at a millisecond a round.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _batches(index: Tensor, settings: LocalTraining, shuffle: torch.Generator) -> Iterator[Tensor]:
    """Indices of each step: shuffled batches, or Poisson samples under DP (may be empty)."""
    if settings.protection is not None:
        from wardround_shared.privacy.dp_sgd import poisson_batches  # noqa: PLC0415 - slow import

        plan = settings.protection.plan
        for drawn in poisson_batches(
            len(index), plan.sample_rate, plan.steps_per_round, settings.protection.noise
        ):
            yield index[drawn]
        return
    for _ in range(settings.training.local_epochs):
        order = torch.randperm(len(index), generator=shuffle)
        yield from index[order].split(settings.training.batch_size)


def _class_weights(settings: LocalTraining, device: torch.device) -> Tensor | None:
    """Weight of each class, float32 [K], whose mean over all sites' examples is 1."""
    if settings.training.class_weights == "none":
        return None
    counts = torch.from_numpy(np.maximum(settings.class_counts, 1.0))
    return (counts.sum() / (len(counts) * counts)).float().to(device)


def _optimiser(module: nn.Module, settings: LocalTraining) -> torch.optim.Optimizer:
    """The study's optimiser; without DP its step over all parameters is fused into one call."""
    training = settings.training
    # A fused step reads a gradient in the memory layout of its parameter, whatever its own is, and
    # DP-SGD's gradients have another where a model keeps its channels last.
    fused = settings.protection is None
    rate = learning_rate(training, settings.round)
    parameters = list(module.parameters())
    if training.optimiser == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            fused=fused,
        )
    kind = torch.optim.Adam if training.optimiser == "adam" else torch.optim.AdamW
    return kind(parameters, lr=rate, weight_decay=training.weight_decay, fused=fused)


@contextmanager
def _step(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    settings: LocalTraining,
    weights: Tensor | None,
    examples: int,
) -> Iterator[Step]:
    """The optimiser's step for the life of one local training."""
    if settings.protection is None:
        yield _plain_step(module, optimiser, weights)
        return
    from wardround_shared.privacy.dp_sgd import DpSgd  # noqa: PLC0415 - slow import

    protection = settings.protection
    loss = partial(functional.cross_entropy, weight=weights, reduction="none")
    with DpSgd(
        module,
        optimiser,
        noise_multiplier=protection.plan.noise_multiplier,
        max_grad_norm=protection.privacy.max_grad_norm,
        expected_batch_size=protection.plan.sample_rate * examples,
        noise=protection.noise,
    ) as private:
        yield lambda parts, labels: private.step(parts, labels, loss)


def _plain_step(
    module: nn.Module, optimiser: torch.optim.Optimizer, weights: Tensor | None
) -> Step:
    """The step of a bare PyTorch loop."""

    def step(parts: tuple[Tensor, ...], labels: Tensor) -> None:
        optimiser.zero_grad()
        logits = module(*parts)
        if weights is None:
            loss = functional.cross_entropy(logits, labels)
        else:
            # Divided by the examples, not by their weights: so the batches add up to the epoch.
            loss = functional.cross_entropy(logits, labels, weight=weights, reduction="sum")
            loss = loss / len(labels)
        loss.backward()
        optimiser.step()

    return step


def _pull_back(module: nn.Module, centre: list[Tensor], share: float) -> None:
    """FedProx (Li et al. 2020) as a step of its own: move this share of the way to the centre.

    Apart from the loss's gradient, it needs no data and so costs no privacy.
    """
    with torch.no_grad():
        for parameter, received in zip(module.parameters(), centre, strict=True):
            parameter.lerp_(received, share)
