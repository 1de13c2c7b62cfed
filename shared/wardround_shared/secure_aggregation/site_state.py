"""What a site remembers of a round between two messages, and its encoding on the site's own disk.

Sensitive until the vector is masked: private keys and self seed let whoever has them and the
masked vector read the vector. The stages drop them as soon as they are not needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

from wardround_shared.secure_aggregation.codec import Reader, Writer
from wardround_shared.secure_aggregation.faults import MessageError
from wardround_shared.secure_aggregation.keys import RoundContext
from wardround_shared.secure_aggregation.shares import SHARE_BYTES
from wardround_shared.secure_aggregation.wire import (
    DIGEST_BYTES,
    KEY_BYTES,
    SiteKeys,
    Survivors,
    UnmaskAnswer,
    read_context,
    write_context,
)

MAGIC = b"WRSS"
VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """A site's own secrets of one round, 32 bytes each; used for one vector and then dropped."""

    sealing: bytes = field(repr=False)
    masking: bytes = field(repr=False)
    self_seed: bytes = field(repr=False)

    def write(self, writer: Writer) -> None:
        """Append the encoding."""
        for secret in (self.sealing, self.masking, self.self_seed):
            writer.fixed(secret, KEY_BYTES)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """The inverse of `write`."""
        return cls(
            sealing=reader.fixed(KEY_BYTES),
            masking=reader.fixed(KEY_BYTES),
            self_seed=reader.fixed(KEY_BYTES),
        )


@dataclass(frozen=True, kw_only=True)
class HeldShares:
    """This site's shares of one site's two secrets. Only one of them may ever be given out."""

    self_seed: bytes = field(repr=False)
    masking: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Advertised:
    """Keys are out; nobody has shares yet."""

    stage: ClassVar[int] = 1
    secrets: Secrets
    keys: SiteKeys

    def write(self, writer: Writer) -> None:
        """Append the encoding."""
        self.secrets.write(writer)
        self.keys.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """The inverse of `write`."""
        return cls(secrets=Secrets.read(reader), keys=SiteKeys.read(reader))


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Shares are out; ready to mask one vector.

    Attributes:
        peers: keys of the other sites that advertised.
        own: the site's own shares of its secrets.
    """

    stage: ClassVar[int] = 2
    secrets: Secrets
    peers: tuple[SiteKeys, ...]
    own: HeldShares

    def write(self, writer: Writer) -> None:
        """Append the encoding."""
        self.secrets.write(writer)
        writer.u16(len(self.peers))
        for keys in self.peers:
            keys.write(writer)
        _write_shares(writer, self.own)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """The inverse of `write`."""
        return cls(
            secrets=Secrets.read(reader),
            peers=tuple(SiteKeys.read(reader) for _ in range(reader.u16())),
            own=_read_shares(reader),
        )


@dataclass(frozen=True, kw_only=True)
class Masked:
    """The vector is out, and the site's own secrets are forgotten.

    Attributes:
        question: what the vector answers, 32 bytes; spent when its sum is unmasked.
        shares: of every site of the cohort, itself included.
    """

    stage: ClassVar[int] = 3
    context: RoundContext
    question: bytes
    shares: Mapping[int, HeldShares]

    def write(self, writer: Writer) -> None:
        """Append the encoding."""
        write_context(writer, self.context)
        writer.fixed(self.question, DIGEST_BYTES)
        writer.u16(len(self.shares))
        for site, shares in sorted(self.shares.items()):
            writer.u16(site)
            _write_shares(writer, shares)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """The inverse of `write`."""
        return cls(
            context=read_context(reader),
            question=reader.fixed(DIGEST_BYTES),
            shares={reader.u16(): _read_shares(reader) for _ in range(reader.u16())},
        )


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """The survivor set is signed; ready to give out one share of each site.

    Attributes:
        survivors: what was signed.
        question, shares: as in `Masked`.
    """

    stage: ClassVar[int] = 4
    survivors: Survivors
    question: bytes
    shares: Mapping[int, HeldShares]

    def write(self, writer: Writer) -> None:
        """Append the encoding."""
        Masked(context=self.survivors.context, question=self.question, shares=self.shares).write(
            writer
        )
        self.survivors.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """The inverse of `write`."""
        masked = Masked.read(reader)
        return cls(
            survivors=Survivors.read(masked.context, reader),
            question=masked.question,
            shares=masked.shares,
        )


@dataclass(frozen=True, kw_only=True)
class Done:
    """Everything is answered; every share that was not given out is forgotten.

    Attributes:
        request: SHA-256 of the one request to unmask that was answered.
        answer: what it was answered with, for a server that has to ask the same again.
    """

    stage: ClassVar[int] = 5
    request: bytes
    answer: UnmaskAnswer

    def write(self, writer: Writer) -> None:
        """Append the encoding."""
        writer.fixed(self.request, DIGEST_BYTES)
        write_context(writer, self.answer.context)
        self.answer.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """The inverse of `write`."""
        return cls(
            request=reader.fixed(DIGEST_BYTES),
            answer=UnmaskAnswer.read(read_context(reader), reader),
        )


Stage = Advertised | Shared | Masked | Confirmed | Done

_STAGES: dict[int, type[Stage]] = {
    kind.stage: kind for kind in (Advertised, Shared, Masked, Confirmed, Done)
}


@dataclass(frozen=True, kw_only=True)
class SiteState:
    """All that a site remembers.

    Attributes:
        site, roster_digest, study_id, run: whose state this is.
        latest: highest round that the site has advertised keys for.
        stages: of the rounds under way, by number; three at most.
    """

    site: str
    study_id: str
    run: str
    roster_digest: bytes
    latest: int
    stages: Mapping[int, Stage]

    def to_bytes(self) -> bytes:
        """The encoding."""
        writer = Writer()
        writer.fixed(MAGIC, len(MAGIC))
        writer.u8(VERSION)
        for text in (self.site, self.study_id, self.run):
            writer.text(text)
        writer.fixed(self.roster_digest, KEY_BYTES)
        writer.u32(self.latest)
        writer.u8(len(self.stages))
        for number, stage in sorted(self.stages.items()):
            writer.u32(number)
            writer.u8(stage.stage)
            stage.write(writer)
        return writer.finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`.

        Raises:
            MessageError: not such an encoding, or of another version.
        """
        reader = Reader(data)
        if reader.fixed(len(MAGIC)) != MAGIC or reader.u8() != VERSION:
            raise MessageError(
                "The stored state of secure aggregation is not one of this version; remove it, "
                "the site then takes part from the next round on."
            )
        state = cls(
            site=reader.text(),
            study_id=reader.text(),
            run=reader.text(),
            roster_digest=reader.fixed(KEY_BYTES),
            latest=reader.u32(),
            stages=dict(_read_stage(reader) for _ in range(reader.u8())),
        )
        reader.end()
        return state


def _read_stage(reader: Reader) -> tuple[int, Stage]:
    number, kind = reader.u32(), reader.u8()
    if kind not in _STAGES:
        raise MessageError("The stored state of secure aggregation is malformed: unknown stage.")
    return number, _STAGES[kind].read(reader)


def _write_shares(writer: Writer, shares: HeldShares) -> None:
    writer.fixed(shares.self_seed, SHARE_BYTES)
    writer.fixed(shares.masking, SHARE_BYTES)


def _read_shares(reader: Reader) -> HeldShares:
    return HeldShares(self_seed=reader.fixed(SHARE_BYTES), masking=reader.fixed(SHARE_BYTES))
