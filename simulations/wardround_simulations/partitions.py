"""Partitions: one data set dealt to virtual sites, by patient, from a seed.

Training and validation patients are dealt separately, by the same rule, so that every site gets
its share of both and the split does not depend on the partition. The order of the rows has no
influence. n = examples, P = patients.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround_client.cohort import Partition
from wardround_shared.errors import CohortError
from wardround_shared.study import Simulation

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Iid:
    """Patients shuffled and dealt in turn: sites differ by at most one patient on each side."""

    sites: int
    seed: int

    @property
    def description(self) -> str:
        """All settings, for the cache key."""
        return repr(self)

    def __call__(self, strata: Integers, patients: Integers, validation: Flags) -> Integers:
        """Groups, patient codes and split [n] -> site of each example [n].

        Raises:
            CohortError: there are more sites than training patients.
        """
        people = _People(strata, patients, validation, self.sites)
        random = np.random.default_rng(self.seed)
        site = np.empty(len(people.codes), dtype=np.int64)
        for side in people.sides():
            site[random.permutation(side)] = np.arange(len(side)) % self.sites
        return people.examples(site)


@dataclass(frozen=True, kw_only=True)
class Dirichlet:
    """Label skew: each class is cut by shares drawn from a symmetric Dirichlet distribution.

    Hsu, Qi and Brown (2019), "Measuring the Effects of Non-Identical Data Distribution for
    Federated Visual Classification", in the form of one draw per class over the sites. A patient
    counts to the class that most of the patient's examples have. A site that is dealt no training
    patient is given one of the site that has most, and likewise for validation as far as the
    patients suffice.
    """

    sites: int
    alpha: float
    seed: int

    @property
    def description(self) -> str:
        """All settings, for the cache key."""
        return repr(self)

    def __call__(self, strata: Integers, patients: Integers, validation: Flags) -> Integers:
        """Groups, patient codes and split [n] -> site of each example [n].

        Raises:
            CohortError: there are more sites than training patients.
        """
        people = _People(strata, patients, validation, self.sites)
        random = np.random.default_rng(self.seed)
        site = np.zeros(len(people.codes), dtype=np.int64)
        for label in np.unique(people.strata):
            edges = np.cumsum(random.dirichlet(np.full(self.sites, self.alpha)))
            for side in people.sides():
                members = random.permutation(side[people.strata[side] == label])
                middle = (np.arange(len(members)) + 0.5) / max(len(members), 1)
                site[members] = np.minimum(np.searchsorted(edges, middle), self.sites - 1)
        for side in people.sides():
            _fill_empty(site, side, self.sites)
        return people.examples(site)


def partition_of(simulation: Simulation, *, sites: int, seed: int) -> Partition:
    """The partition that a study names."""
    if simulation.partition == "iid":
        return Iid(sites=sites, seed=seed)
    return Dirichlet(sites=sites, alpha=simulation.alpha, seed=seed)


class _People:
    """Patients in the order of their codes: [P] codes, majority groups and split."""

    def __init__(self, strata: Integers, patients: Integers, validation: Flags, sites: int) -> None:
        self.codes, first, self._of_example = np.unique(
            patients, return_index=True, return_inverse=True
        )
        self.validation = validation[first]
        counts = np.zeros((len(self.codes), int(strata.max(initial=0)) + 1), dtype=np.int64)
        np.add.at(counts, (self._of_example, strata), 1)
        self.strata = counts.argmax(axis=1)
        training = int((~self.validation).sum())
        if sites > training:
            raise CohortError(
                f"{sites} sites are asked for, but there are only {training} patients to train "
                "on; ask for fewer sites."
            )

    def sides(self) -> Iterator[NDArray[np.intp]]:
        """Numbers of the training patients, then of the validation patients."""
        yield np.flatnonzero(~self.validation)
        yield np.flatnonzero(self.validation)

    def examples(self, site: Integers) -> Integers:
        """Site of each patient [P] -> site of each example [n]."""
        return site[self._of_example]


def _fill_empty(site: Integers, side: NDArray[np.intp], sites: int) -> None:
    """Give each empty site one patient of the fullest, as long as that one has two; in place."""
    counts = np.bincount(site[side], minlength=sites)
    for empty in np.flatnonzero(counts == 0):
        fullest = int(counts.argmax())
        if counts[fullest] < 2:
            return
        site[side[site[side] == fullest][0]] = empty
        counts[fullest] -= 1
        counts[empty] += 1
