"""A long sum in whole steps, whose values are worked out a block at a time.

A sum over sites is exact in whole numbers. As float64 it would take twice the memory of the model,
and what is made of it twice that again; block by block it takes next to none, and each value is the
same to the last bit. V = values.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

# Values of a block; float64 blocks of it stay in the second-level cache.
_BLOCK = 1 << 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """float64 [V]: each value is its count, divided by the divisors one after the other.

    Attributes:
        counts: whole numbers with a sign [V]; not copied.
        divisors: steps to the unit, then whatever else the sum was divided by.
    """

    counts: NDArray[np.signedinteger]
    divisors: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.counts)

    def __truediv__(self, divisor: float) -> Self:
        """The same values, each divided once more."""
        return type(self)(counts=self.counts, divisors=(*self.divisors, divisor))

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Places and values (float64) of one block after the other, whole once together."""
        for start in range(0, len(self.counts), _BLOCK):
            place = slice(start, start + _BLOCK)
            block = self.counts[place].astype(np.float64)
            for divisor in self.divisors:
                block /= divisor
            yield place, block

    def values(self) -> NDArray[np.float64]:
        """All values at once: for short sums."""
        whole = np.empty(len(self.counts))
        for place, block in self.blocks():
            whole[place] = block
        return whole
