"""Who takes part in a step of DP-SGD: Poisson sampling of records or of patients.

Each unit is drawn independently of all others, with the same probability in every step. The draws
decide who takes part, so they come from the source of the noise and are as secret.

Shape letters: N = examples, B = examples in a step (varies, may be 0).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy.noise import NoiseSource


def poisson_batches(n: int, sample_rate: float, steps: int, noise: NoiseSource) -> Iterator[Tensor]:
    """Which of n units are in each of `steps` steps: int64, ascending.

    Args:
        n: number of units at the site.
        sample_rate: probability in (0, 1] with which each unit is in each step, independently.
        steps: number of steps.
        noise: where the draws come from.

    Raises:
        PrivacyError: the sample rate is no probability.
    """
    if not 0.0 < sample_rate <= 1.0:
        raise PrivacyError(f"A sample rate of {sample_rate} is no probability above 0.")
    for _ in range(steps):
        yield (noise.uniform(n) < sample_rate).nonzero().squeeze(1)


class Patients:
    """The examples of a site, by patient.

    Attributes:
        count: number of patients.
    """

    def __init__(self, patients: Tensor) -> None:
        """Group examples by patient.

        Args:
            patients: int64 [N], on the CPU; equal for examples of one patient.
        """
        codes, number = patients.unique(return_inverse=True)
        self.count = len(codes)
        self._number = number
        self._by_patient = number.argsort(stable=True)
        sizes = number.bincount(minlength=self.count)
        self._largest = int(sizes.max()) if len(sizes) else 0

    def batches(
        self, sample_rate: float, steps: int, noise: NoiseSource, *, at_most: int
    ) -> Iterator[Tensor]:
        """Which examples are in each of `steps` steps: int64 [B], one patient after the other.

        A drawn patient brings all examples, or `at_most` of them, chosen anew in each step so that
        every choice is equally likely.

        Args:
            sample_rate: probability in (0, 1] with which each patient is in each step.
            steps: number of steps.
            noise: where the draws come from.
            at_most: examples of one patient in one step; at least 1.

        Raises:
            PrivacyError: the sample rate is no probability.
        """
        for drawn in poisson_batches(self.count, sample_rate, steps, noise):
            taken = torch.zeros(self.count, dtype=torch.bool)
            taken[drawn] = True
            members = self._by_patient[taken[self._number[self._by_patient]]]
            yield members if self._largest <= at_most else self._thinned(members, noise, at_most)

    def _thinned(self, members: Tensor, noise: NoiseSource, at_most: int) -> Tensor:
        """`at_most` of each patient's examples among `members`, patient by patient."""
        shuffled = members[noise.uniform(len(members)).argsort()]
        number, order = self._number[shuffled].sort(stable=True)
        sizes = number.bincount(minlength=self.count)
        place = torch.arange(len(number)) - (sizes.cumsum(0) - sizes)[number]
        return shuffled[order[place < at_most]]
