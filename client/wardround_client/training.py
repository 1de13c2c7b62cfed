"""Local training and evaluation at a site.

The loop is the plain PyTorch loop: one gather per batch, forward, backward, step. Legend of
shapes: N = examples of the site, B = batch, K = classes, P = model parameters.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wardround_client.account import Plan
from wardround_client.progress import EVALUATING, TRAINING, Progress, unwatched
from wardround_shared.messages import Floats
from wardround_shared.models import flatten
from wardround_shared.privacy.noise import NoiseSource
from wardround_shared.study import Privacy, Training
from wardround_shared.tasks import Task

Parts = tuple[Tensor, ...]
Augmentation = Callable[[Parts, Tensor, torch.Generator], tuple[Parts, Tensor]]
Step = Callable[[Parts, Tensor, Tensor | None], None]
"""Takes parts and targets of a batch, each [B, ...], and patients [B] where they are the unit."""

EVALUATION_BATCH = 128
"""Examples a forward pass; small enough for activations to stay in cache."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Prepared examples of one site.

    Attributes:
        parts: [N, ...] each, on the device.
        targets: [N, ...], what the task is to tell of each example, on the device.
        patients: int64 [N], on the CPU; equal for examples of one patient.
    """

    parts: tuple[Tensor, ...]
    targets: Tensor
    patients: Tensor

    def take(self, index: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The batch with these indices (int64 [B])."""
        # A third of the time of part[index].
        parts = tuple(part.index_select(0, index) for part in self.parts)
        return parts, self.targets.index_select(0, index)


@dataclass(frozen=True, kw_only=True)
class Protection:
    """DP-SGD for one training: plan, steps paid for, clipping norm, where noise comes from."""

    plan: Plan
    steps: int
    privacy: Privacy
    noise: NoiseSource


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """One site's training in one round, apart from data and model.

    Attributes:
        progress: is told of each step; costs a call that does nothing if nobody watches.
        centre: float32 [P], where `training.proximal` pulls to; None: to what is begun with.
        correction: float32 [P], is added to the gradient in each step, after DP's clipping and
            noise; so it must not come from these examples but through what was noised before.
    """

    task: Task
    training: Training
    round: int
    seed: int
    class_counts: Floats
    augmentation: Augmentation | None
    protection: Protection | None
    progress: Progress = unwatched
    centre: Tensor | None = None
    correction: Tensor | None = None


def local_seed(seed: int, site: str, round_number: int) -> int:
    """Seed of one site's shuffling in one round; unrelated between sites and rounds."""
    digest = hashlib.sha256(f"wardround/local-seed/{seed}/{site}/{round_number}".encode())
    return int.from_bytes(digest.digest()[:7], "big")


def train(
    module: nn.Module, examples: Examples, index: Tensor, settings: LocalTraining
) -> NDArray[np.float32]:
    """Train `module` in place; returns trained minus first parameters, float32 [P].

    Args:
        module: holds the model to begin with, as a rule the received global one; parameters that
            need no gradient stay as they are.
        examples: of the whole site.
        index: int64 [N'], the training split.
        settings: what the study asks of this round.
    """
    received = flatten(module)
    device = examples.targets.device
    shuffle = torch.Generator().manual_seed(settings.seed)
    change = _chances(settings, device)
    optimiser = _optimiser(module, settings)
    patients = examples.patients[index] if _by_patient(settings) else None
    rate = settings.training.rate_in(settings.round)
    pull = settings.training.proximal * rate
    towards = _like(module, received if settings.centre is None else settings.centre)
    correction = settings.correction
    drift = None if correction is None else _like(module, correction * rate)
    steps = _steps(len(index), settings)
    module.train()
    with _step(module, optimiser, settings, _class_weights(settings, device)) as step:
        for done, drawn in enumerate(_draws(len(index), patients, settings, shuffle), start=1):
            parts, targets = examples.take(index[drawn].to(device))
            if settings.augmentation is not None and len(drawn):
                parts, targets = settings.augmentation(parts, targets, change)
            whose = None if patients is None else patients[drawn]
            step(*settings.task.posed(module, parts, targets, whose, change))
            if pull:
                _pull(module, towards, pull)
            if drift is not None:
                _take_off(module, drift)
            settings.progress(TRAINING, done, steps)
    delta: NDArray[np.float32] = (flatten(module) - received).cpu().numpy()
    return delta


def evaluate(
    module: nn.Module,
    examples: Examples,
    index: Tensor,
    task: Task,
    progress: Progress = unwatched,
) -> Floats:
    """Metric counts (float64 [L]) of `module` on the examples in `index` (int64)."""
    if not len(index):
        return np.zeros(task.counts_length)
    device = examples.targets.device
    batches = math.ceil(len(index) / EVALUATION_BATCH)

    def parts() -> Iterator[tuple[Tensor, ...]]:
        for number, batch in enumerate(index.split(EVALUATION_BATCH), start=1):
            yield examples.take(batch.to(device))[0]
            progress(EVALUATING, number, batches)

    targets = examples.targets[index.to(device)].cpu().numpy()
    if task.answers != "pixel":
        return task.count(predict(module, parts(), task), targets)
    # What is told of pixels is far larger than the examples: it is counted batch by batch.
    counts, start = np.zeros(task.counts_length), 0
    for batch in parts():
        found = predict(module, [batch], task)
        counts += task.count(found, targets[start : start + len(found)])
        start += len(found)
    return counts


def predict(module: nn.Module, batches: Iterable[tuple[Tensor, ...]], task: Task) -> Floats:
    """What `task` reads off the module's outputs, float64 [N, ...]; N is at least 1.

    Measuring a model and using it go through here with batches of the same size, so that they
    cannot differ.
    """
    module.eval()
    with torch.inference_mode():
        found = [task.predictions(module(*parts)) for parts in batches]
    return torch.cat(found).cpu().numpy()


def _chances(settings: LocalTraining, device: torch.device) -> torch.Generator:
    """Prepare the generator that dropout draws from, and return one for augmentation.

    Both follow the seed, or under DP what nobody can foresee (privacy/chances.py says why).
    """
    dropout = torch.default_generator
    if device.type == "cuda":
        dropout = torch.cuda.default_generators[device.index or torch.cuda.current_device()]
    if settings.protection is None:
        # `torch.manual_seed` would also note the call's stack for every kind of device there
        # might be, at a millisecond a round.
        dropout.manual_seed(settings.seed)
        return torch.Generator(device=device).manual_seed(settings.seed)
    from wardround_shared.privacy.chances import make_secret_  # noqa: PLC0415 - slow import

    augmentation = torch.Generator()
    for generator in (dropout, augmentation):
        make_secret_(generator, settings.protection.noise)
    return augmentation


def _steps(n: int, settings: LocalTraining) -> int:
    """Steps of this round, with n training examples."""
    if settings.protection is not None:
        return settings.protection.steps
    training = settings.training
    return training.local_steps or training.local_epochs * math.ceil(n / training.batch_size)


def _by_patient(settings: LocalTraining) -> bool:
    return settings.protection is not None and settings.protection.privacy.unit == "patient"


def _draws(
    n: int, patients: Tensor | None, settings: LocalTraining, shuffle: torch.Generator
) -> Iterator[Tensor]:
    """Which of the n training examples are in each step, int64 [B].

    Shuffled batches, or under DP Poisson samples, which may be empty.

    Args:
        n: number of training examples.
        patients: int64 [n] if patients are what is drawn.
        settings: what the study asks of this round.
        shuffle: for batches without DP.
    """
    if settings.protection is None:
        batches = _shuffled(n, settings.training.batch_size, shuffle)
        yield from itertools.islice(batches, _steps(n, settings))
        return
    from wardround_shared.privacy.sampling import Patients, poisson_batches  # noqa: PLC0415 - slow

    plan, noise = settings.protection.plan, settings.protection.noise
    steps = settings.protection.steps
    if patients is None:
        yield from poisson_batches(n, plan.sample_rate, steps, noise)
    else:
        at_most = settings.protection.privacy.examples_per_patient
        grouped = Patients(patients)
        yield from grouped.batches(plan.sample_rate, steps, noise, at_most=at_most)


def _shuffled(n: int, size: int, shuffle: torch.Generator) -> Iterator[Tensor]:
    """Batches of one pass over n examples after the other, without end."""
    while True:
        yield from torch.randperm(n, generator=shuffle).split(size)


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
    rate = training.rate_in(settings.round)
    parameters = [p for p in module.parameters() if p.requires_grad]
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
) -> Iterator[Step]:
    """The optimiser's step for the life of one local training."""
    loss = partial(settings.task.loss, weights=weights)
    if settings.protection is None:
        yield _plain_step(module, optimiser, loss)
        return
    from wardround_shared.privacy.dp_sgd import DpSgd  # noqa: PLC0415 - slow import

    protection = settings.protection
    with DpSgd(
        module,
        optimiser,
        noise_multiplier=protection.plan.noise_multiplier,
        max_grad_norm=protection.privacy.max_grad_norm,
        expected_batch_size=protection.plan.sample_rate * protection.plan.units,
        noise=protection.noise,
    ) as private:
        yield lambda parts, targets, patients: private.step(parts, targets, loss, patients)


def _plain_step(
    module: nn.Module, optimiser: torch.optim.Optimizer, loss: Callable[[Tensor, Tensor], Tensor]
) -> Step:
    """The step of a bare PyTorch loop."""

    def step(parts: tuple[Tensor, ...], targets: Tensor, _patients: Tensor | None) -> None:
        optimiser.zero_grad()
        # Over the examples, whatever their weights: so the batches add up to the epoch.
        loss(module(*parts), targets).mean().backward()
        optimiser.step()

    return step


def _like(module: nn.Module, vector: Tensor) -> list[Tensor]:
    """A vector [P] in the shapes of the parameters; a view of it."""
    parameters = list(module.parameters())
    parts = vector.split([parameter.numel() for parameter in parameters])
    return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]


def _take_off(module: nn.Module, drift: list[Tensor]) -> None:
    """The correction of SCAFFOLD (Karimireddy et al. 2020), times the learning rate.

    A step of its own, which with plain SGD is the same as adding it to the gradient. It is known
    before the round's data are touched, and so costs no privacy.
    """
    with torch.no_grad():
        for parameter, known in zip(module.parameters(), drift, strict=True):
            parameter.sub_(known)


def _pull(module: nn.Module, centre: list[Tensor], share: float) -> None:
    """The pull of FedProx (Li et al. 2020) and Ditto (Li et al. 2021) as a step of its own.

    Parameters move this share of the way to the centre. Apart from the loss's gradient, it needs no
    data and so costs no privacy.
    """
    with torch.no_grad():
        for parameter, towards in zip(module.parameters(), centre, strict=True):
            parameter.lerp_(towards, share)
