"""How the server moves the global model by the weighted mean of the sites' deltas.

Reddi et al., Adaptive Federated Optimization, 2021, algorithm 2: the mean delta takes the place
of a negative gradient. P = model parameters.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wardround_shared.messages import Floats
from wardround_shared.study import Training

Parameters = NDArray[np.float32]


class ServerOptimiser(Protocol):
    """One step of the global model; state lives inside and goes into checkpoints."""

    def step(self, parameters: Parameters, mean_delta: Floats) -> Parameters:
        """New parameters (float32 [P]) from the old ones and the mean delta (float64 [P])."""

    def state(self) -> dict[str, Floats]:
        """Everything a checkpoint needs to go on."""


class FedAvg:
    """McMahan et al. 2017: add the mean delta, times the server's learning rate.

    FedProx (Li et al. 2020) differs at the sites only, so it steps here as well.
    """

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate

    def step(self, parameters: Parameters, mean_delta: Floats) -> Parameters:
        """See `ServerOptimiser.step`."""
        moved: Parameters = (parameters + self._learning_rate * mean_delta).astype(np.float32)
        return moved

    def state(self) -> dict[str, Floats]:
        """FedAvg has no state."""
        return {}


class FedAdam:
    """Reddi et al. 2021, FedAdam, with bias correction as in Adam (Kingma and Ba 2015)."""

    BETA_1 = 0.9
    BETA_2 = 0.99
    TAU = 1e-3
    """Adaptivity of the paper: keeps the step bounded where deltas vanish."""

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate
        self._mean: Floats = np.zeros(0)
        self._square: Floats = np.zeros(0)
        self._steps = 0

    def step(self, parameters: Parameters, mean_delta: Floats) -> Parameters:
        """See `ServerOptimiser.step`."""
        if self._steps == 0:
            self._mean = np.zeros_like(mean_delta)
            self._square = np.zeros_like(mean_delta)
        self._steps += 1
        self._mean = self.BETA_1 * self._mean + (1 - self.BETA_1) * mean_delta
        self._square = self.BETA_2 * self._square + (1 - self.BETA_2) * mean_delta**2
        mean = self._mean / (1 - self.BETA_1**self._steps)
        root = np.sqrt(self._square / (1 - self.BETA_2**self._steps))
        step = self._learning_rate * mean / (root + self.TAU)
        moved: Parameters = (parameters + step).astype(np.float32)
        return moved

    def state(self) -> dict[str, Floats]:
        """First and second moment and the number of steps."""
        return {"mean": self._mean, "square": self._square, "steps": np.array([self._steps], float)}


def server_optimiser(training: Training) -> ServerOptimiser:
    """The optimiser that the study's strategy names."""
    if training.strategy == "fedadam":
        return FedAdam(training.server_learning_rate)
    return FedAvg(training.server_learning_rate)
