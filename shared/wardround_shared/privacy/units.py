"""Whose examples are clipped as one: the units that differential privacy protects.

Under the patient unit a unit is a patient with all of his examples in the batch; under the record
unit each example is one of its own.

Shape letters: B = examples, U = units.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from wardround_shared.errors import PrivacyError

# Numbers that are faster formed for each example than by one call for each unit.
_FEW = 1 << 17


@dataclass(frozen=True)
class Units:
    """The units of a batch whose examples lie unit by unit.

    Attributes:
        sizes: number of examples of each unit, U numbers of 1 or more that add up to B.
        device: of the batch.
    """

    sizes: tuple[int, ...]
    device: torch.device

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def examples(self) -> int:
        """B."""
        return sum(self.sizes)

    @cached_property
    def single(self) -> bool:
        """Whether each example is a unit of its own."""
        return self.examples == len(self.sizes)

    @cached_property
    def alike(self) -> bool:
        """Whether all units have as many examples."""
        return len(set(self.sizes)) == 1

    @cached_property
    def of_examples(self) -> Tensor:
        """Number of each example's unit, int64 [B]."""
        numbers = [number for number, size in enumerate(self.sizes) for _ in range(size)]
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)

    def require_all(self, values: Tensor, dim: int = 0) -> None:
        """Refuse values that are not one for each example.

        Raises:
            PrivacyError: a model that folds examples into other dimensions cannot be clipped.
        """
        if values.shape[dim] != self.examples:
            raise PrivacyError(
                f"A layer of the model sees {values.shape[dim]} examples in a batch of "
                f"{self.examples}, so no example can be clipped on its own."
            )

    def sums(self, values: Tensor) -> Tensor:
        """Sums of [B, ...] over the examples of each unit, [U, ...]."""
        self.require_all(values)
        if self.single:
            return values
        if self.alike:
            return values.reshape(len(self), -1, *values.shape[1:]).sum(dim=1)
        zeros = values.new_zeros(len(self), *values.shape[1:])
        return zeros.index_add_(0, self.of_examples, values)

    def spread(self, values: Tensor) -> Tensor:
        """Each example's value of its unit's values [U, ...], [B, ...]."""
        return values if self.single else values.index_select(0, self.of_examples)

    def split(self, *values: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Views of all `values` [B, ...], unit by unit."""
        return zip(*(v.split(self.sizes) for v in values), strict=True)

    def by_size(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Each number of examples that units have, which units these are, and their examples."""
        sizes = torch.tensor(self.sizes, device=self.device)
        of_examples = self.spread(sizes)
        for size in sorted(set(self.sizes)):
            yield size, (sizes == size).nonzero()[:, 0], (of_examples == size).nonzero()[:, 0]

    def products(self, left: Tensor, right: Tensor) -> Tensor:
        """Sums over a unit's rows of left [B, ..., O] times right [B, ..., I], [U, O, I]."""
        outputs, inputs = left.shape[-1], right.shape[-1]
        if self.alike:
            by_unit = left.reshape(len(self), -1, outputs).transpose(1, 2)
            return torch.bmm(by_unit, right.reshape(len(self), -1, inputs))
        if self.examples * outputs * inputs <= _FEW:
            of_examples = left.reshape(self.examples, -1, outputs).transpose(1, 2)
            return self.sums(torch.bmm(of_examples, right.reshape(self.examples, -1, inputs)))
        result = left.new_empty(len(self), outputs, inputs)
        for total, (a, b) in zip(result.unbind(0), self.split(left, right), strict=True):
            torch.mm(a.reshape(-1, outputs).t(), b.reshape(-1, inputs), out=total)
        return result


def by_patient(patients: Tensor) -> tuple[Tensor | None, tuple[int, ...]]:
    """Bring examples together by patient.

    Args:
        patients: whose each example is, int64 [B], on the CPU.

    Returns:
        The order in which each patient's examples lie together, int64 [B], or None if they do so
        already; and the number of each patient's examples.
    """
    numbers = patients.tolist()
    order = None
    sizes = _runs(numbers)
    if len(sizes) > len(set(numbers)):
        order = patients.argsort(stable=True)
        sizes = _runs(sorted(numbers))
    return order, sizes


def _runs(numbers: Sequence[int]) -> tuple[int, ...]:
    return tuple(sum(1 for _ in run) for _, run in groupby(numbers))


def whole_units(sizes: Sequence[int], limit: int) -> Iterator[tuple[int, ...]]:
    """Parts of `sizes` in order, each of at most `limit` examples unless it is a single unit."""
    start, examples = 0, 0
    for number, size in enumerate(sizes):
        if number > start and examples + size > limit:
            yield tuple(sizes[start:number])
            start, examples = number, 0
        examples += size
    if start < len(sizes):
        yield tuple(sizes[start:])
