"""Masks: key streams added to a vector, which the receiver's sum cancels.

A vector is uint32 [N] in the form that `quantisation.VectorLayout` gives it: the first `wide`
words are elements of the ring of integers modulo 2^32, each of the others holds two elements of
the ring modulo 2^16, the first in its low half. In the usual 32-bit layout all words are wide.
A mask is the key stream of its seed, as many bytes as the vector, read as little-endian words of
the same form. All arithmetic wraps around by definition.

N = words of a vector.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wardround_shared.secure_aggregation.faults import MessageError
from wardround_shared.secure_aggregation.streams import KEY_BYTES, Chunk, KeyStream

Vector = NDArray[np.uint32]

# Bytes of a chunk of the vector; chunk and key stream together stay in the second-level cache.
# A multiple of the cipher's block, so that a stream's chunks join without a gap.
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Mask:
    """One key stream to be added, or subtracted.

    Attributes:
        seed: 32 secret bytes, the AES-256 key. Never used for two vectors: the difference of two
            vectors under one mask is in clear.
        negate: subtract it.
    """

    seed: bytes = field(repr=False)
    negate: bool


def add_mask(vector: Vector, seed: bytes, *, negate: bool, wide: int | None = None) -> None:
    """Add one mask in place; see `add_masks`."""
    add_masks(vector, [Mask(seed=seed, negate=negate)], wide=wide)


def add_masks(vector: Vector, masks: Sequence[Mask], *, wide: int | None = None) -> None:
    """Add masks to a vector, in place; only chunk-sized buffers are allocated.

    Security rests on AES-256-CTR being a pseudo-random function: whoever lacks one of the seeds
    sees a vector that is uniformly random (Bonawitz et al. 2017, section 4).

    Args:
        vector: uint32 [N], contiguous; overwritten.
        masks: all to be added, each with a seed of its own.
        wide: number of leading words of the ring modulo 2^32 (`VectorLayout.wide`); all by
            default.

    Raises:
        MessageError: two masks have the same seed, a seed is not of 32 bytes, or the vector is not
            a contiguous uint32 [N].
    """
    rings = _rings(vector, wide)
    seeds = {mask.seed for mask in masks}
    if len(seeds) != len(masks) or any(len(seed) != KEY_BYTES for seed in seeds):
        raise MessageError(
            "A vector would be masked twice with one seed, or with a malformed one; nothing was "
            "sent, give this round up."
        )
    streams = [(KeyStream(mask.seed), np.subtract if mask.negate else np.add) for mask in masks]
    chunk = Chunk(_CHUNK_BYTES)
    for ring in rings:
        take = chunk.words32 if ring.dtype.itemsize == 4 else chunk.words16
        for part in _chunks(ring):
            for stream, combine in streams:
                combine(part, take(stream, len(part)), out=part)


def add_vector(total: Vector, vector: Vector, *, wide: int | None = None) -> None:
    """Add a vector to a running sum in place, each uint32 [N].

    Raises:
        MessageError: they differ in length, or one is not a contiguous uint32 [N].
    """
    if len(vector) != len(total):
        raise MessageError(
            f"A masked vector has {len(vector)} words, this round's have {len(total)}."
        )
    for ring, addend in zip(_rings(total, wide), _rings(vector, wide), strict=True):
        np.add(ring, addend, out=ring)


def _rings(vector: Vector, wide: int | None) -> tuple[NDArray[np.uint32] | NDArray[np.uint16], ...]:
    """The same memory as elements modulo 2^32 and, where there are any, modulo 2^16."""
    if vector.dtype != np.uint32 or vector.ndim != 1 or not vector.flags.c_contiguous:
        raise MessageError("A vector to be masked is not one contiguous array of uint32.")
    if wide is None or wide == len(vector):
        return (vector,)
    if not 0 <= wide < len(vector):
        raise MessageError(f"A vector of {len(vector)} words cannot have {wide} wide ones.")
    return (vector[:wide], vector[wide:].view("<u2"))


def _chunks(
    ring: NDArray[np.uint32] | NDArray[np.uint16],
) -> Iterator[NDArray[np.uint32] | NDArray[np.uint16]]:
    step = _CHUNK_BYTES // ring.dtype.itemsize
    return (ring[start : start + step] for start in range(0, len(ring), step))
