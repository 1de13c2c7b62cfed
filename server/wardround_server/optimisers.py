"""How the server moves the global model by the weighted mean of the sites' deltas.

Reddi et al., Adaptive Federated Optimization, 2021, algorithm 2: the mean delta takes the place
of a negative gradient. P = model parameters.

The steps are done block by block: a mean delta as float64 would take twice the model's memory, and
every expression in it twice that again.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import RunFolderError
from wardround_shared.messages import Floats
from wardround_shared.steps import Steps
from wardround_shared.study import Training

Parameters = NDArray[np.float32]


class ServerOptimiser(Protocol):
    """One step of the global model; state lives inside and goes into checkpoints."""

    def step(self, parameters: Parameters, mean_delta: Steps) -> Parameters:
        """New parameters (float32 [P]) from the old ones and the mean delta [P]."""

    def state(self) -> dict[str, Floats]:
        """Everything a checkpoint needs to go on."""

    def restore(self, state: Mapping[str, Floats]) -> None:
        """Go on from what `state` gave; its arrays are worked on where they lie.

        Raises:
            RunFolderError: it is not the state of this optimiser.
        """


class FedAvg:
    """McMahan et al. 2017: add the mean delta, times the server's learning rate.

    FedProx (Li et al. 2020) differs at the sites only, so it steps here as well.
    """

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate

    def step(self, parameters: Parameters, mean_delta: Steps) -> Parameters:
        """See `ServerOptimiser.step`."""
        moved = np.empty_like(parameters)
        for place, block in mean_delta.blocks():
            moved[place] = parameters[place] + self._learning_rate * block
        return moved

    def state(self) -> dict[str, Floats]:
        """FedAvg has no state."""
        return {}

    def restore(self, state: Mapping[str, Floats]) -> None:
        """See `ServerOptimiser.restore`."""
        require_names(state, set())


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

    def step(self, parameters: Parameters, mean_delta: Steps) -> Parameters:
        """See `ServerOptimiser.step`."""
        if self._steps == 0:
            self._mean = np.zeros(len(mean_delta))
            self._square = np.zeros(len(mean_delta))
        self._steps += 1
        moved = np.empty_like(parameters)
        for place, block in mean_delta.blocks():
            moved[place] = parameters[place] + self._step(place, block)
        return moved

    def _step(self, place: slice, delta: Floats) -> Floats:
        """How far the parameters of one block move; keeps its moments."""
        mean, square = self._mean[place], self._square[place]
        mean[...] = self.BETA_1 * mean + (1 - self.BETA_1) * delta
        square[...] = self.BETA_2 * square + (1 - self.BETA_2) * delta**2
        mean = mean / (1 - self.BETA_1**self._steps)
        root = np.sqrt(square / (1 - self.BETA_2**self._steps))
        step: Floats = self._learning_rate * mean / (root + self.TAU)
        return step

    def state(self) -> dict[str, Floats]:
        """First and second moment and the number of steps."""
        return {"mean": self._mean, "square": self._square, "steps": np.array([self._steps], float)}

    def restore(self, state: Mapping[str, Floats]) -> None:
        """See `ServerOptimiser.restore`."""
        require_names(state, {"mean", "square", "steps"})
        self._mean, self._square = state["mean"], state["square"]
        self._steps = int(state["steps"][0])


def require_names(state: Mapping[str, Floats], names: set[str]) -> None:
    """Refuse a checkpoint that holds anything else.

    Raises:
        RunFolderError: it does.
    """
    if set(state) != names:
        raise RunFolderError(
            "The checkpoint holds the state of another optimiser than the study's strategy names; "
            "start the run anew."
        )


def server_optimiser(training: Training) -> ServerOptimiser:
    """The optimiser that the study's strategy names."""
    if training.strategy == "fedadam":
        return FedAdam(training.server_learning_rate)
    return FedAvg(training.server_learning_rate)
