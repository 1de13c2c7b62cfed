"""The server's control variate of SCAFFOLD (Karimireddy et al. 2020), from sums of updates alone.

A site i with n_i examples changes its own control variate, which it never sends, by
-c - delta_i / (K lr) (option II): K steps at the rate lr are the same at all sites, so that the
sum of n_i times that, over the sites of a round, follows from the sum of updates. `Control` keeps
C, the sum of n_i c_i, whoever takes part, and sends c = C / W. W is the largest weight that a round
has had: all sites', from the first round on in which all took part. Until then c is too long by
one factor, which does not move the point where it is zero. P = model parameters.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import RunFolderError
from wardround_shared.messages import Floats
from wardround_shared.steps import Steps

_SUM, _WEIGHT = "sum", "weight"


class Control:
    """The control variate over all sites, and who is in it."""

    def __init__(self) -> None:
        """That of a run that has not begun."""
        self._sum: Floats = np.zeros(0)
        self._weight = 0.0
        self.counted: dict[str, int] = {}

    def values(self, parameters: int) -> NDArray[np.float32]:
        """float32 [P], c as it is sent."""
        if not self._weight:
            return np.zeros(parameters, dtype=np.float32)
        return (self._sum / self._weight).astype(np.float32)

    def add(
        self, delta: Steps, *, weight: float, moved: float, number: int, sites: Iterable[str]
    ) -> None:
        """Follow the control variates of the sites of one round.

        Args:
            delta: [P], sum of model delta x weight.
            weight: sum of weights.
            moved: steps of a site in this round, times its learning rate.
            number: of the round.
            sites: whose updates are in the sum.
        """
        shared = self.values(len(delta))
        if not self._weight:
            self._sum = np.zeros(len(delta))
        for place, block in delta.blocks():
            self._sum[place] -= shared[place] * weight + block / moved
        self._weight = max(self._weight, weight)
        self.counted = self.counted | dict.fromkeys(sites, number)

    def state(self) -> dict[str, Floats]:
        """Everything that a checkpoint needs to go on, beside `counted`."""
        return {_SUM: self._sum, _WEIGHT: np.array([self._weight])}

    def restore(self, state: Mapping[str, Floats], counted: Mapping[str, int]) -> None:
        """Go on from what `state` gave, and `counted` was.

        Raises:
            RunFolderError: it is none.
        """
        if set(state) != {_SUM, _WEIGHT}:
            raise RunFolderError(
                "The checkpoint holds no control variate, which the study's strategy needs; start "
                "the run anew."
            )
        self._sum, self._weight = state[_SUM], float(state[_WEIGHT][0])
        self.counted = dict(counted)
