"""The yardstick: the same training as a bare PyTorch loop, in one process and in two.

It trains and validates on the very batches that the federation uses (same cohorts, same seeds,
same model), and averages the sites' models after every round, with nothing else around it: no
messages, no run folder, no metrics beyond the validation outputs. The optimiser is PyTorch's with
its defaults; a site's is the same one with `fused=True`. P = model parameters.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wardround_client.cohort import Cohort, open_cohort
from wardround_client.prepared import prepare
from wardround_client.training import EVALUATION_BATCH, local_seed
from wardround_shared.messages import Fitted
from wardround_shared.models import flatten, unflatten_
from wardround_shared.network import build_network
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import Study
from wardround_simulations.backends.launch import warm_context


@dataclass(frozen=True, kw_only=True)
class BareLoop:
    """What the loop needs; small enough to be sent to a second process."""

    study: Study
    cohorts: tuple[Path, ...]
    fitted: Fitted
    seed: int


class Sites:
    """The sites that one process trains, with their data in memory."""

    def __init__(self, loop: BareLoop, cohorts: Sequence[Path]) -> None:
        torch.set_num_threads(1)
        self._loop = loop
        recipe = Recipe(loop.study)
        self._cohorts: list[tuple[Cohort, Tensor, Tensor]] = []
        for folder in cohorts:
            cohort = open_cohort(folder)
            images = torch.from_numpy(np.array(prepare(cohort, recipe, loop.fitted)[0]))
            self._cohorts.append((cohort, images, torch.from_numpy(cohort.targets)))
        self.module = first_model(loop, self._cohorts[0][0])
        _warm_up()

    def round(self, received: Tensor, number: int) -> tuple[Tensor, int]:
        """Validate, then train every site from `received` (float32 [P]); sum of deltas, weight."""
        total = torch.zeros_like(received, dtype=torch.float64)
        weight = 0
        for cohort, images, labels in self._cohorts:
            unflatten_(self.module, received)
            self._validate(images, torch.from_numpy(cohort.validation))
            seed = local_seed(self._loop.seed, cohort.site, number)
            self._train(images, labels, torch.from_numpy(cohort.train), seed, number)
            trained = flatten(self.module)
            total += (trained - received).double() * len(cohort.train)
            weight += len(cohort.train)
        return total, weight

    def validate(self, received: Tensor) -> None:
        """Run the validation batches of every site through a model (float32 [P])."""
        unflatten_(self.module, received)
        for cohort, images, _ in self._cohorts:
            self._validate(images, torch.from_numpy(cohort.validation))

    def _train(self, images: Tensor, labels: Tensor, index: Tensor, seed: int, number: int) -> None:
        training = self._loop.study.training
        shuffle = torch.Generator().manual_seed(seed)
        self.module.train()
        optimiser = torch.optim.SGD(
            self.module.parameters(),
            lr=training.rate_in(number),
            momentum=training.momentum,
            weight_decay=training.weight_decay,
        )
        for batch in index[torch.randperm(len(index), generator=shuffle)].split(
            training.batch_size
        ):
            optimiser.zero_grad()
            functional.cross_entropy(self.module(images[batch]), labels[batch]).backward()
            optimiser.step()

    def _validate(self, images: Tensor, index: Tensor) -> None:
        self.module.eval()
        with torch.inference_mode():
            for batch in index.split(EVALUATION_BATCH):
                self.module(images[batch])


def _warm_up() -> None:
    """Take the first step of an optimiser in this process, which imports for most of a second."""
    parameter = torch.zeros(1, requires_grad=True)
    parameter.sum().backward()
    torch.optim.SGD([parameter], lr=0.1).step()


def first_model(loop: BareLoop, cohort: Cohort) -> nn.Module:
    """The study's model as the coordinator initialises it."""
    shapes = tuple(tuple(array.shape[1:]) for array in cohort.arrays)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(loop.seed)
        return build_network(loop.study, Recipe(loop.study).output_shapes(shapes))


def in_one_process(loop: BareLoop) -> tuple[float, Tensor]:
    """Seconds of training all sites in this process, and the final model (float32 [P])."""
    before = torch.get_num_threads()
    try:
        sites = Sites(loop, loop.cohorts)
        model = flatten(sites.module)
        started = time.perf_counter()
        for number in range(1, loop.study.training.rounds + 1):
            total, weight = sites.round(model, number)
            model = (model + total / weight).float()
        sites.validate(model)
        return time.perf_counter() - started, model
    finally:
        torch.set_num_threads(before)


def in_two_processes(loop: BareLoop) -> float:
    """Seconds of training with every second site in a second process.

    The second process is started and warmed up before the clock starts.
    """
    context = warm_context()
    here, there = context.Pipe()
    other = context.Process(target=_serve, args=(loop, loop.cohorts[1::2], there), daemon=True)
    other.start()
    before = torch.get_num_threads()
    try:
        sites = Sites(loop, loop.cohorts[0::2])
        model = flatten(sites.module)
        here.recv()
        started = time.perf_counter()
        for number in range(1, loop.study.training.rounds + 1):
            here.send((model.numpy(), number))
            total, weight = sites.round(model, number)
            other_total, other_weight = here.recv()
            total += torch.from_numpy(other_total)
            model = (model + total / (weight + other_weight)).float()
        here.send((model.numpy(), None))
        sites.validate(model)
        here.recv()
        return time.perf_counter() - started
    finally:
        here.send(None)
        other.join()
        torch.set_num_threads(before)


def _serve(loop: BareLoop, cohorts: Sequence[Path], pipe: Connection) -> None:
    sites = Sites(loop, cohorts)
    pipe.send("ready")
    while (request := pipe.recv()) is not None:
        model, number = request
        if number is None:
            sites.validate(torch.from_numpy(model))
            pipe.send("done")
            continue
        total, weight = sites.round(torch.from_numpy(model), number)
        pipe.send((total.numpy(), weight))
