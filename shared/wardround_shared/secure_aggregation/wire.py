"""The messages of secure aggregation and their one encoding (docs/protocol.md, wire format).

Every message is a frozen dataclass; `encode` and `decode` are each other's inverse, and `decode`
raises `MessageError` for anything that `encode` would not have written. Sites are named by their
index in the roster. What a message *means* is checked by the two state machines.

N = words of a vector.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from wardround_shared.secure_aggregation.codec import (
    Reader,
    Writer,
    check_rising,
    read_count,
    read_pairs,
    read_sites,
    write_pairs,
    write_sites,
)
from wardround_shared.secure_aggregation.faults import MessageError
from wardround_shared.secure_aggregation.keys import RoundContext
from wardround_shared.secure_aggregation.shares import SHARE_BYTES

MAGIC = b"WRSA"
VERSION = 1

MAX_WORDS = 2**29
MAX_BYTES = 2**20
"""Longest message, but for the words of a vector."""

DIGEST_BYTES = 32
KEY_BYTES = 32
SIGNATURE_BYTES = 64
SEALED_LIMIT = 255

M = TypeVar("M", bound="Message")


@dataclass(frozen=True, kw_only=True)
class SiteKeys:
    """What one site advertises for one round.

    Attributes:
        site: index of the site.
        sealing: X25519 public key under which shares are sealed to it.
        masking: X25519 public key of its pairwise masks.
        commitment: SHA-256 commitment to its self seed.
        signature: Ed25519, over all of these and the context.
    """

    site: int
    sealing: bytes
    masking: bytes
    commitment: bytes
    signature: bytes

    def write(self, writer: Writer) -> None:
        """Append the encoding."""
        writer.u16(self.site)
        self.write_signed(writer)
        writer.fixed(self.signature, SIGNATURE_BYTES)

    def write_signed(self, writer: Writer) -> None:
        """Append the part that the signature covers, besides context and index."""
        writer.fixed(self.sealing, KEY_BYTES)
        writer.fixed(self.masking, KEY_BYTES)
        writer.fixed(self.commitment, DIGEST_BYTES)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """The inverse of `write`."""
        return cls(
            site=reader.u16(),
            sealing=reader.fixed(KEY_BYTES),
            masking=reader.fixed(KEY_BYTES),
            commitment=reader.fixed(DIGEST_BYTES),
            signature=reader.fixed(SIGNATURE_BYTES),
        )


class Message(Protocol):
    """What every message has."""

    kind: ClassVar[int]

    @property
    def context(self) -> RoundContext:
        """Where it belongs."""

    def write(self, writer: Writer) -> None:
        """Append the body."""

    @classmethod
    def read(cls, context: RoundContext, reader: Reader) -> Self:
        """The inverse of `write`."""


@dataclass(frozen=True, kw_only=True)
class KeysRequest:
    """Server to every site: keys for a coming round, please."""

    kind: ClassVar[int] = 1
    context: RoundContext

    def write(self, writer: Writer) -> None:
        """Append the body: nothing."""

    @classmethod
    def read(cls, context: RoundContext, reader: Reader) -> Self:  # noqa: ARG003 - as all others
        """The inverse of `write`."""
        return cls(context=context)


@dataclass(frozen=True, kw_only=True)
class Advertisement:
    """Answer to `KeysRequest`."""

    kind: ClassVar[int] = 2
    context: RoundContext
    keys: SiteKeys

    def write(self, writer: Writer) -> None:
        """Append the body."""
        self.keys.write(writer)

    @classmethod
    def read(cls, context: RoundContext, reader: Reader) -> Self:
        """The inverse of `write`."""
        return cls(context=context, keys=SiteKeys.read(reader))


@dataclass(frozen=True, kw_only=True)
class Advertisements:
    """Server to the sites that advertised: everybody's keys, by rising index."""

    kind: ClassVar[int] = 3
    context: RoundContext
    keys: tuple[SiteKeys, ...]

    def write(self, writer: Writer) -> None:
        """Append the body."""
        check_rising([keys.site for keys in self.keys])
        writer.u16(len(self.keys))
        for keys in self.keys:
            keys.write(writer)

    @classmethod
    def read(cls, context: RoundContext, reader: Reader) -> Self:
        """The inverse of `write`."""
        keys = tuple(SiteKeys.read(reader) for _ in range(read_count(reader)))
        check_rising([one.site for one in keys])
        return cls(context=context, keys=keys)


@dataclass(frozen=True, kw_only=True)
class SealedShares:
    """Answer to `Advertisements`: (receiver, two shares encrypted to it), by rising receiver."""

    kind: ClassVar[int] = 4
    context: RoundContext
    shares: tuple[tuple[int, bytes], ...]

    def write(self, writer: Writer) -> None:
        """Append the body."""
        write_pairs(writer, self.shares, lambda sealed: writer.short(sealed, SEALED_LIMIT))

    @classmethod
    def read(cls, context: RoundContext, reader: Reader) -> Self:
        """The inverse of `write`."""
        return cls(context=context, shares=read_pairs(reader, lambda: reader.short(SEALED_LIMIT)))


@dataclass(frozen=True, kw_only=True)
class MaskRequest:
    """Server to the cohort: mask; (sender, shares encrypted to this site), by rising sender.

    The senders and the receiver are the cohort.
    """

    kind: ClassVar[int] = 5
    context: RoundContext
    shares: tuple[tuple[int, bytes], ...]

    def write(self, writer: Writer) -> None:
        """Append the body."""
        write_pairs(writer, self.shares, lambda sealed: writer.short(sealed, SEALED_LIMIT))

    @classmethod
    def read(cls, context: RoundContext, reader: Reader) -> Self:
        """The inverse of `write`."""
        return cls(context=context, shares=read_pairs(reader, lambda: reader.short(SEALED_LIMIT)))


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedVector:
    """Answer to `MaskRequest`: uint32 [N]. A decoded one is a view of the received bytes."""

    kind: ClassVar[int] = 6
    context: RoundContext
    vector: NDArray[np.uint32]

    def write(self, writer: Writer) -> None:
        """Append the body."""
        if self.vector.dtype != np.uint32 or self.vector.ndim != 1:
            raise MessageError("A masked vector is not one array of uint32.")
        if len(self.vector) > MAX_WORDS:
            raise MessageError(f"A masked vector has more than {MAX_WORDS} words.")
        words = np.ascontiguousarray(self.vector, dtype="<u4")
        writer.u32(len(words))
        writer.fixed(words.view(np.uint8).data, 4 * len(words))

    @classmethod
    def read(cls, context: RoundContext, reader: Reader) -> Self:
        """The inverse of `write`."""
        words = reader.u32()
        if words > MAX_WORDS:
            raise MessageError(f"A message claims a vector of {words} words.")
        vector = np.frombuffer(reader.view(4 * words), dtype="<u4")
        return cls(context=context, vector=vector.astype(np.uint32, copy=False))


@dataclass(frozen=True, kw_only=True)
class Survivors:
    """Server to the survivors: whose vectors are in the sum, and who of the cohort dropped out."""

    kind: ClassVar[int] = 7
    context: RoundContext
    survivors: tuple[int, ...]
    dropped: tuple[int, ...]

    def write(self, writer: Writer) -> None:
        """Append the body; it is also what a `Confirmation` signs, after the context."""
        for sites in (self.survivors, self.dropped):
            write_sites(writer, sites)

    @classmethod
    def read(cls, context: RoundContext, reader: Reader) -> Self:
        """The inverse of `write`."""
        return cls(context=context, survivors=read_sites(reader), dropped=read_sites(reader))


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """Answer to `Survivors`: Ed25519 over context, survivors and dropped."""

    kind: ClassVar[int] = 8
    context: RoundContext
    signature: bytes

    def write(self, writer: Writer) -> None:
        """Append the body."""
        writer.fixed(self.signature, SIGNATURE_BYTES)

    @classmethod
    def read(cls, context: RoundContext, reader: Reader) -> Self:
        """The inverse of `write`."""
        return cls(context=context, signature=reader.fixed(SIGNATURE_BYTES))


@dataclass(frozen=True, kw_only=True)
class UnmaskRequest:
    """Server to those that confirmed: (site, its signature), by rising site."""

    kind: ClassVar[int] = 9
    context: RoundContext
    signatures: tuple[tuple[int, bytes], ...]

    def write(self, writer: Writer) -> None:
        """Append the body."""
        write_pairs(
            writer, self.signatures, lambda signature: writer.fixed(signature, SIGNATURE_BYTES)
        )

    @classmethod
    def read(cls, context: RoundContext, reader: Reader) -> Self:
        """The inverse of `write`."""
        return cls(
            context=context, signatures=read_pairs(reader, lambda: reader.fixed(SIGNATURE_BYTES))
        )


@dataclass(frozen=True, kw_only=True)
class UnmaskAnswer:
    """Answer to `UnmaskRequest`: (owner, the answering site's share of its secret).

    Attributes:
        self_seeds: of every survivor.
        masking_keys: of every dropped site.
    """

    kind: ClassVar[int] = 10
    context: RoundContext
    self_seeds: tuple[tuple[int, bytes], ...]
    masking_keys: tuple[tuple[int, bytes], ...]

    def write(self, writer: Writer) -> None:
        """Append the body."""
        for shares in (self.self_seeds, self.masking_keys):
            write_pairs(writer, shares, lambda share: writer.fixed(share, SHARE_BYTES))

    @classmethod
    def read(cls, context: RoundContext, reader: Reader) -> Self:
        """The inverse of `write`."""
        return cls(
            context=context,
            self_seeds=read_pairs(reader, lambda: reader.fixed(SHARE_BYTES)),
            masking_keys=read_pairs(reader, lambda: reader.fixed(SHARE_BYTES)),
        )


def encode(message: Message) -> bytes:
    """The encoding of a message.

    Raises:
        MessageError: a field is outside the limits.
    """
    writer = Writer()
    writer.fixed(MAGIC, len(MAGIC))
    writer.u8(VERSION)
    writer.u8(message.kind)
    write_context(writer, message.context)
    message.write(writer)
    return writer.finish()


def decode(data: bytes | memoryview, expected: type[M]) -> M:
    """The message that `data` encodes.

    Args:
        data: as received.
        expected: the kind of message that may come now.

    Raises:
        MessageError: truncated, oversized, malformed, of another version or kind.
    """
    if len(data) > MAX_BYTES + (4 * MAX_WORDS if expected.kind == MaskedVector.kind else 0):
        raise MessageError(f"A message of {len(data)} bytes is longer than any may be.")
    reader = Reader(data)
    if reader.fixed(len(MAGIC)) != MAGIC:
        raise MessageError("A message is malformed: it is none of secure aggregation.")
    version = reader.u8()
    if version != VERSION:
        raise MessageError(
            f"A message has version {version} of secure aggregation, this side speaks {VERSION}; "
            "install the same release of wardround on both sides."
        )
    kind = reader.u8()
    if kind != expected.kind:
        raise MessageError(f"A message of kind {kind} came instead of {expected.kind}.")
    message = expected.read(read_context(reader), reader)
    reader.end()
    return message


def write_context(writer: Writer, context: RoundContext) -> None:
    """Append a context."""
    encoded = context.encode()
    writer.fixed(encoded, len(encoded))


def read_context(reader: Reader) -> RoundContext:
    """The inverse of `write_context`."""
    return RoundContext(
        protocol=reader.u16(),
        study_id=reader.text(),
        run=reader.text(),
        round=reader.u32(),
        roster_digest=reader.fixed(DIGEST_BYTES),
        model_digest=reader.fixed(DIGEST_BYTES),
        layout_digest=reader.fixed(DIGEST_BYTES),
    )
