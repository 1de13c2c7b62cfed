"""A sum that may be unmasked, as the server keeps it on disk: killed, it goes on from there.

Nothing in it is secret from the server: the total is under masks, and which sites may unmask it is
what they have signed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wardround_shared.secure_aggregation.codec import (
    Reader,
    Writer,
    read_count,
    read_pairs,
    write_pairs,
)
from wardround_shared.secure_aggregation.faults import MessageError
from wardround_shared.secure_aggregation.keys import RoundContext
from wardround_shared.secure_aggregation.wire import (
    MAX_WORDS,
    SIGNATURE_BYTES,
    SiteKeys,
    Survivors,
    read_context,
    write_context,
)

MAGIC = b"WRSU"
VERSION = 1

_ALIGNED = 64
"""The words begin at a multiple of so many bytes, so that they can be worked on where they lie."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfirmedRound:
    """A round between `close_confirmations` and `close_round`.

    Attributes:
        context: of the round.
        keys: what each site of the cohort has advertised, by index.
        survivors: the survivor set that was confirmed.
        signatures: of the sites that confirmed it, by index.
        note: of whoever stores it.
        total: uint32 [N], the sum of the survivors' masked vectors; of one that was read it is the
            caller's own memory if that can be written.
    """

    context: RoundContext
    keys: Mapping[int, SiteKeys]
    survivors: Survivors
    signatures: Mapping[int, bytes]
    note: bytes
    total: NDArray[np.uint32]

    def parts(self) -> tuple[bytes, memoryview]:
        """The encoding in two parts, of which the second is the total itself and no copy."""
        writer = Writer()
        writer.fixed(MAGIC, len(MAGIC))
        writer.u8(VERSION)
        write_context(writer, self.context)
        writer.u16(len(self.keys))
        for _, keys in sorted(self.keys.items()):
            keys.write(writer)
        self.survivors.write(writer)
        signatures = sorted(self.signatures.items())
        write_pairs(writer, signatures, lambda one: writer.fixed(one, SIGNATURE_BYTES))
        writer.u32(len(self.note))
        writer.fixed(self.note, len(self.note))
        writer.u32(len(self.total))
        header = writer.finish()
        words = np.ascontiguousarray(self.total, dtype="<u4")
        return header + bytes(-len(header) % _ALIGNED), words.view(np.uint8).data

    @classmethod
    def from_buffer(cls, data: bytes | bytearray | memoryview) -> Self:
        """The inverse of `parts`, joined.

        Raises:
            MessageError: not such an encoding, or of another version.
        """
        reader = Reader(data)
        if reader.fixed(len(MAGIC)) != MAGIC or reader.u8() != VERSION:
            raise MessageError(
                "The stored secure sum is not one of this version; finish the run with the release "
                "that began it, or start a new run."
            )
        context = read_context(reader)
        keys = [SiteKeys.read(reader) for _ in range(read_count(reader))]
        survivors = Survivors.read(context, reader)
        signatures = dict(read_pairs(reader, lambda: reader.fixed(SIGNATURE_BYTES)))
        note = reader.fixed(reader.u32())
        return cls(
            context=context,
            keys={one.site: one for one in keys},
            survivors=survivors,
            signatures=signatures,
            note=note,
            total=_words(reader, len(data)),
        )


def _words(reader: Reader, size: int) -> NDArray[np.uint32]:
    """The total at the end of the encoding, which has `size` bytes; copied only if it must be."""
    words = reader.u32()
    if words > MAX_WORDS:
        raise MessageError(f"The stored secure sum claims a vector of {words} words.")
    reader.fixed(-(size - reader.remaining) % _ALIGNED)
    total = np.frombuffer(reader.view(4 * words), dtype="<u4").astype(np.uint32, copy=False)
    reader.end()
    return total if total.flags.writeable else total.copy()
