"""Training of a generator at the server: after each round, against the discriminator alone.

Augenstein et al. 2020, algorithm 1. Nothing here has seen an image of a patient: under DP the
discriminator is what epsilon covers, and all that follows from it is covered as well. P = model
parameters, G = those of the generator.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wardround_server.optimisers import Parameters, ServerOptimiser, require_names
from wardround_shared.messages import Floats
from wardround_shared.models import flatten, unflatten_
from wardround_shared.models.dcgan import DcGanModel
from wardround_shared.steps import Steps
from wardround_shared.study import Training

_BETAS = (0.5, 0.999)
_OWN = "generator."


class WithGenerator:
    """A server's optimiser, after whose every step the generator is trained.

    Its rate falls with the rounds that have moved the model; one that was given up is none.
    """

    def __init__(
        self,
        discriminator: ServerOptimiser,
        training: Training,
        network_of: Callable[[], DcGanModel],
        seed: int,
    ) -> None:
        """Train by `training.generator`.

        Args:
            discriminator: moves the parameters by what the sites have sent.
            training: of the study.
            network_of: makes the study's network; its values do not matter.
            seed: of the latent numbers.
        """
        self._discriminator = discriminator
        self._training = training
        self._settings = training.generator
        self._network_of = network_of
        self._seed = seed
        self._network: DcGanModel | None = None
        self._mean: Tensor | None = None
        self._square: Tensor | None = None
        self._rounds = 0

    def step(self, parameters: Parameters, mean_delta: Steps) -> Parameters:
        """See `ServerOptimiser.step`."""
        moved = self._discriminator.step(parameters, mean_delta)
        if self._network is None:
            self._network = self._network_of()
        network = self._network
        unflatten_(network, torch.from_numpy(moved))
        network.generator.requires_grad_(True)
        network.discriminator.requires_grad_(False)
        self._train(network)
        self._rounds += 1
        trained: Parameters = flatten(network).numpy()
        return trained

    def _train(self, network: DcGanModel) -> None:
        settings, weights = self._settings, list(network.generator.parameters())
        rate = settings.learning_rate * self._training.rate_share(self._rounds + 1)
        optimiser = torch.optim.Adam(weights, lr=rate, betas=_BETAS, fused=True)
        self._put_in_(optimiser, weights)
        chance = torch.Generator().manual_seed(_seed_of(self._seed, self._rounds))
        network.train()
        for _ in range(settings.steps):
            classes = torch.randint(network.classes, (settings.batch_size,), generator=chance)
            logits = network(network.made(classes, chance))
            optimiser.zero_grad()
            # The loss that does not saturate (Goodfellow et al. 2014).
            functional.softplus(-logits.gather(1, classes[:, None])).mean().backward()
            optimiser.step()
        self._keep(optimiser, weights)

    def _put_in_(self, optimiser: torch.optim.Adam, weights: Sequence[Tensor]) -> None:
        """Go on with the moments of the last round."""
        if self._mean is None or self._square is None:
            return
        sizes = [weight.numel() for weight in weights]
        done = torch.tensor(float(self._rounds * self._settings.steps))
        for weight, mean, square in zip(
            weights, self._mean.split(sizes), self._square.split(sizes), strict=True
        ):
            optimiser.state[weight] = {
                "step": done.clone(),
                "exp_avg": mean.view_as(weight).clone(),
                "exp_avg_sq": square.view_as(weight).clone(),
            }

    def _keep(self, optimiser: torch.optim.Adam, weights: Sequence[Tensor]) -> None:
        states = [optimiser.state[weight] for weight in weights]
        self._mean = torch.cat([state["exp_avg"].reshape(-1) for state in states])
        self._square = torch.cat([state["exp_avg_sq"].reshape(-1) for state in states])

    def state(self) -> dict[str, Floats]:
        """That of the discriminator's optimiser, the generator's moments [G] and rounds."""
        own = (
            {}
            if self._mean is None or self._square is None
            else {
                f"{_OWN}mean": self._mean.double().numpy(),
                f"{_OWN}square": self._square.double().numpy(),
                f"{_OWN}rounds": np.array([self._rounds], float),
            }
        )
        return self._discriminator.state() | own

    def restore(self, state: Mapping[str, Floats]) -> None:
        """See `ServerOptimiser.restore`."""
        own = {key: value for key, value in state.items() if key.startswith(_OWN)}
        self._discriminator.restore({k: v for k, v in state.items() if k not in own})
        if not own:
            return
        require_names(own, {f"{_OWN}{name}" for name in ("mean", "square", "rounds")})
        self._mean = torch.from_numpy(own[f"{_OWN}mean"]).float()
        self._square = torch.from_numpy(own[f"{_OWN}square"]).float()
        self._rounds = int(own[f"{_OWN}rounds"][0])


def _seed_of(seed: int, rounds: int) -> int:
    """Seed of the latent numbers after so many rounds."""
    digest = hashlib.sha256(f"wardround/generator/{seed}/{rounds}".encode())
    return int.from_bytes(digest.digest()[:7], "big")
