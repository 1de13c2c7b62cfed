"""Real values to elements of a ring and back: what is summed under the masks.

A value v becomes an integer q with E[q] = v x scale, one of the two neighbours of v x scale, drawn
by chance (stochastic rounding; Gupta et al. 2015), so that errors of sites and rounds average out
instead of adding up. Negative integers are in two's complement. The scale of a segment is a power
of two that all sites know, and leaves room for the sum over all of them: overflow is impossible by
construction.

Error of one value of a sum over n sites, with step = 1 / scale: always below n steps; its standard
deviation is at most sqrt(n) / 2 steps; its mean is within n x 2^-17 steps of zero, since 16 bits
are drawn for a value. The step is bound x sites / 2^31, rounded up to a power of two, and in
the 16-bit ring bound x sites / 2^15, likewise. That ring halves a message for slow links; with
10 sites and values of a hundredth of their bound, such a value is 16 to 32 steps.

N = words of a vector, V = values of a segment, W = values of a chunk.
"""

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import PrivacyError, ProtocolError, StudyError
from wardround_shared.secure_aggregation.streams import KEY_BYTES, Chunk, KeyStream, RandomBytes
from wardround_shared.steps import Steps

Values = NDArray[np.float32] | NDArray[np.float64]
Words = NDArray[np.uint32] | NDArray[np.uint16]
Signed = NDArray[np.int32] | NDArray[np.int16]

_LABEL = b"wardround/secure-aggregation/1/layout"
# Values of a chunk; all its buffers together (22 bytes a value) stay in the second-level cache.
_CHUNK = 1 << 15
# Scales between these keep every product far inside float64's range, and exact.
_LARGEST_BOUND = 2.0**100
_SMALLEST_BOUND = 2.0**-100
_WORD_BITS = 32


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Values of one kind in a vector.

    Attributes:
        name: unique in its layout.
        length: V, number of values.
        bound: largest absolute value at one site; a larger one is clamped and counted, or refused
            if it is a whole number.
        integral: the values are whole numbers and their sum is exact, so that none may be clamped;
            they keep the 32-bit ring where the others have 16 bits.
    """

    name: str
    length: int
    bound: float
    integral: bool = False

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ValueError(f"segment {self.name} has {self.length} values")
        if not _SMALLEST_BOUND <= self.bound <= _LARGEST_BOUND:
            raise StudyError(
                f"Segment {self.name!r} of the update is bounded by {self.bound}; secure "
                f"aggregation takes bounds from {_SMALLEST_BOUND:.0e} to {_LARGEST_BOUND:.0e}."
            )


@dataclass(frozen=True, kw_only=True)
class VectorLayout:
    """How a vector is made up; the same at every site of a round, and bound into its keys.

    Words come in the order: 32-bit segments, then 16-bit segments, two values to a word (the first
    in the low half; a last half may be left over and is zero).

    Attributes:
        segments: in the order of the values.
        sites: most vectors that are summed.
        ring_bits: 32 or 16, of segments that are not integral.

    Raises:
        StudyError: whole numbers whose sum needs more than 32 bits.
    """

    segments: tuple[Segment, ...]
    sites: int
    ring_bits: int = 32

    def __post_init__(self) -> None:
        if self.ring_bits not in {16, 32}:
            raise ValueError(f"a ring of {self.ring_bits} bits")
        if not 1 <= self.sites < 2 ** (self.ring_bits - 1):
            raise ValueError(f"a sum over {self.sites} sites")
        if len({segment.name for segment in self.segments}) != len(self.segments):
            raise ValueError("two segments have the same name")
        for segment in self.segments:
            if segment.integral and math.ceil(segment.bound) * self.sites >= 2**31:
                raise StudyError(
                    f"Whole numbers up to {segment.bound:.0f} ({segment.name!r}) from "
                    f"{self.sites} sites cannot be summed in 32 bits; lower "
                    "aggregation.largest-cohort."
                )

    @cached_property
    def wide(self) -> int:
        """Number of leading words that are elements of the ring modulo 2^32."""
        return sum(segment.length for segment in self.segments if self._bits(segment) == _WORD_BITS)

    @cached_property
    def words(self) -> int:
        """N, the length of a vector in words of 32 bits."""
        return self.wide + (self.length - self.wide + 1) // 2

    @cached_property
    def length(self) -> int:
        """Number of values, over all segments; in the 32-bit ring the same as `words`."""
        return sum(segment.length for segment in self.segments)

    def scale(self, segment: Segment) -> float:
        """Steps to the unit: the largest power of two that leaves room for all sites.

        1 for whole numbers; otherwise ceil(bound x scale) x sites < 2^(bits - 1). The ceiling is
        there because stochastic rounding may go up from the bound itself.
        """
        if segment.integral:
            return 1.0
        room = (2 ** (self._bits(segment) - 1) - 1) // self.sites
        # bound < 2^exponent, so that this scale fits; the next one may fit too.
        scale = math.ldexp(1.0, math.frexp(room)[1] - 1 - math.frexp(segment.bound)[1])
        while math.ceil(segment.bound * scale * 2.0) <= room:
            scale *= 2.0
        return scale

    def largest(self, segment: Segment) -> int:
        """Largest absolute value that a quantised value of one site can have."""
        return math.ceil(segment.bound * self.scale(segment))

    def digest(self) -> bytes:
        """SHA-256 over a canonical encoding of the layout (integers and float64 big-endian).

        The label; ring bits (1 byte), sites (4), number of segments (4); for each segment the
        length of its name in bytes (2), the name in UTF-8, its length (8), its bound (8, float64),
        and 1 for whole numbers (1).
        """
        parts = [_LABEL, struct.pack(">BII", self.ring_bits, self.sites, len(self.segments))]
        for segment in self.segments:
            name = segment.name.encode()
            parts += [
                struct.pack(">H", len(name)),
                name,
                struct.pack(">QdB", segment.length, segment.bound, segment.integral),
            ]
        return hashlib.sha256(b"".join(parts)).digest()

    def places(self, vector: NDArray[np.uint32]) -> Iterator[tuple[Segment, Words]]:
        """Each segment with its elements in a vector (uint32 [N]), a view: uint32 or uint16 [V].

        Raises:
            ProtocolError: the vector does not have this layout.
        """
        if vector.dtype != np.uint32 or vector.shape != (self.words,):
            raise ProtocolError(
                f"A vector of {vector.size} words ({vector.dtype}) does not fit the round's "
                f"layout of {self.words} words of 32 bits."
            )
        rest: dict[int, Words] = {32: vector, 16: vector[self.wide :].view("<u2")}
        for segment in self.segments:
            bits = self._bits(segment)
            yield segment, rest[bits][: segment.length]
            rest[bits] = rest[bits][segment.length :]

    def _bits(self, segment: Segment) -> int:
        return _WORD_BITS if segment.integral else self.ring_bits


def quantise(
    values: Sequence[Values],
    layout: VectorLayout,
    random: RandomBytes,
    out: NDArray[np.uint32],
) -> int:
    """Quantise a site's values; only chunk-sized buffers are allocated.

    The chance of each rounding is 16 bits of an AES-256-CTR key stream: value i of the vector, in
    the order of the segments, has the i-th little-endian word u of it, and becomes
    floor(v x scale + (u + 1/2) / 2^16), computed in float64. What is a whole number of steps stays
    as it is.

    Args:
        values: float32 or float64 [V] for each segment, in order.
        layout: of the round.
        random: gives the key, 32 bytes: whoever knows it knows a little more about the values, so
            `os.urandom`.
        out: uint32 [N], contiguous; overwritten.

    Returns:
        How many values were beyond their bound and clamped; none of them a whole number.

    Raises:
        PrivacyError: a value is not finite, or where the segment says that it is a whole number,
            is none or beyond its bound; `out` is then zero.
        ProtocolError: values or `out` do not fit the layout.
    """
    if len(values) != len(layout.segments):
        raise ProtocolError(
            f"An update has {len(values)} parts, the round's layout {len(layout.segments)}."
        )
    rounding = _Rounding(random)
    clamped = 0
    out[layout.wide :] = 0  # a last half word may have no value
    try:
        for (segment, words), part in zip(layout.places(out), values, strict=True):
            if part.shape != words.shape:
                raise ProtocolError(
                    f"Segment {segment.name!r} of an update has shape {part.shape}, the round's "
                    f"layout says ({segment.length},)."
                )
            clamped += rounding.quantise(part, segment, layout.scale(segment), words)
    except BaseException:
        out[...] = 0  # nobody may send half a vector
        raise
    return clamped


class _Rounding:
    """Chunk-wise stochastic rounding with one key stream, in buffers allocated once."""

    def __init__(self, random: RandomBytes) -> None:
        self._stream = KeyStream(random(KEY_BYTES))
        self._bits = Chunk(2 * _CHUNK)
        self._scaled = np.empty(_CHUNK)
        self._chance = np.empty(_CHUNK)

    def quantise(self, values: Values, segment: Segment, scale: float, out: Words) -> int:
        signed = _signed(out)
        clamped = 0
        for start in range(0, len(values), _CHUNK):
            end = start + _CHUNK
            clamped += self._chunk(values[start:end], segment, scale, signed[start:end])
        return clamped

    def _chunk(
        self,
        values: Values,
        segment: Segment,
        scale: float,
        out: Signed,
    ) -> int:
        scaled, chance = self._scaled[: len(values)], self._chance[: len(values)]
        scaled[...] = values
        clamped = 0
        if not _within(values, segment):
            if segment.integral:
                raise PrivacyError(
                    f"A count of {segment.name!r} is beyond the study's public bound of "
                    f"{segment.bound:.0f}; nothing was sent."
                )
            clamped = int(np.count_nonzero(np.abs(scaled) > segment.bound))
            np.clip(scaled, -segment.bound, segment.bound, out=scaled)
        if segment.integral and not np.array_equal(np.rint(scaled), scaled):
            raise PrivacyError(
                f"A value of {segment.name!r} is not a whole number; nothing was sent."
            )
        chance[...] = self._bits.words16(self._stream, len(values))
        chance += 0.5
        chance *= 2.0**-16
        scaled *= scale
        scaled += chance
        np.floor(scaled, out=scaled)
        out[...] = scaled
        return clamped


def _signed(words: Words) -> Signed:
    """The same memory in two's complement."""
    if words.dtype.itemsize == 4:
        return words.view(np.int32)
    return words.view(np.int16)


def _within(values: Values, segment: Segment) -> bool:
    """Whether all values, of which there is one at least, are finite and within their bound."""
    # As Python floats: numpy would round the bound to float32 for the comparison.
    smallest, largest = float(values.min()), float(values.max())
    if not (math.isfinite(smallest) and math.isfinite(largest)):  # NaN is passed on by both
        raise PrivacyError(
            f"A value of {segment.name!r} of this site's update is not finite: the training "
            "diverged; nothing was sent, lower training.learning-rate."
        )
    return -segment.bound <= smallest and largest <= segment.bound


def dequantise(total: NDArray[np.uint32], layout: VectorLayout, sites: int) -> list[Steps]:
    """The sums that an unmasked vector stands for, exactly; nothing of it is copied.

    Args:
        total: uint32 [N], the sum of `sites` quantised vectors.
        layout: of the round.
        sites: number of vectors in the sum.

    Returns:
        [V] for each segment.

    Raises:
        ProtocolError: not of this layout; more sites than it has room for; or a sum beyond what
            that many sites can reach, so that a mask is still on it or a site did not follow the
            protocol. That check is no authentication: a small change of a sum passes it.
    """
    if not 1 <= sites <= layout.sites:
        raise ProtocolError(f"A sum of {sites} vectors; the round's layout allows {layout.sites}.")
    sums = []
    for segment, words in layout.places(total):
        signed = _signed(words)
        limit = sites * layout.largest(segment)
        if len(signed) and not -limit <= int(signed.min()) <= int(signed.max()) <= limit:
            raise ProtocolError(
                f"The sum of {segment.name!r} over {sites} sites is beyond {sites} times its "
                "bound: a mask was not removed, or a site sent a wrong vector; the round is void."
            )
        sums.append(Steps(counts=signed, divisors=(layout.scale(segment),)))
    return sums
