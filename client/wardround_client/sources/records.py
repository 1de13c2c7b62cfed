"""What a source yields: raw records, and those that were set aside with a reason."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class RawRecord:
    """One example before preprocessing.

    Attributes:
        key: where it stands (table and line); holds no patient identifier.
        patient: patient key; stays at the site.
        site: hospital it comes from, or None where the study names no site key.
        stratum: group of the example, for what deals and counts examples by group: the number of
            its class, 1 for an event that was seen, 0 where there are no groups.
        target: what is to be told of it, of the same shape for all examples (tasks/).
        main: table float64 [F] (NaN is missing, a categorical cell its category's index), image
            [H, W] or [H, W, 3], signal float32 [C, T], record over time float64 [F + 1, T]
            (NaN is missing, the last row holds days), texts str [n] of n columns.
        static: float64 [S] where the study has static columns.
        sampling_rate: of a signal, in Hz.
    """

    key: str
    patient: str
    site: str | None
    stratum: int
    target: NDArray[Any]
    main: NDArray[Any]
    static: NDArray[np.float64] | None = None
    sampling_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a file holds for one example.

    Attributes:
        main: as of `RawRecord`.
        part: which part of the file it is, as it goes on in the example's key; "" for the whole.
        sampling_rate: of a signal, in Hz.
    """

    main: NDArray[Any]
    part: str = ""
    sampling_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """One example that cannot be used.

    Attributes:
        reason: a phrase without any value from the record, so that it can be counted and shown.
    """

    key: str
    site: str | None
    reason: str


class Source(Protocol):
    """A data folder, read as the study says."""

    def fingerprint(self) -> str:
        """Hash over names, sizes and times of the files; opens none of them."""
        ...

    def records(self) -> Iterator[RawRecord | SetAside]:
        """Every example the study asks for, in the order of the files."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What a person should know, complete once `records` is exhausted."""
        ...
