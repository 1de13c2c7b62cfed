"""Who takes part in a run and under which terms: what a site approves before it starts.

The threshold is part of the roster, so that no message can lower it.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from wardround_shared.secure_aggregation.codec import MAX_SITES, Reader, Writer
from wardround_shared.secure_aggregation.faults import ContextError, FloorError, RosterError
from wardround_shared.secure_aggregation.keys import RoundContext
from wardround_shared.secure_aggregation.quantisation import VectorLayout
from wardround_shared.secure_aggregation.wire import DIGEST_BYTES, KEY_BYTES, VERSION

SMALLEST_COHORT = 3
"""With two sites, each knows the other's vector from the sum."""

UNKNOWN = bytes(DIGEST_BYTES)
"""Model and layout digest while keys for a coming round are set up."""

_LABEL = b"wardround/secure-aggregation/1/roster"


def smallest_threshold(sites: int) -> int:
    """The smallest threshold above two thirds of `sites` (Bonawitz et al. 2017, theorem 6.5).

    >>> [smallest_threshold(n) for n in (3, 4, 5, 6, 10)]
    [3, 3, 4, 5, 7]
    """
    return 2 * sites // 3 + 1


@dataclass(frozen=True, kw_only=True)
class Member:
    """A site and its Ed25519 public key, 32 bytes."""

    site: str
    identity: bytes


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The sites of a run, sorted by name; a site's index is its place.

    Attributes:
        members: sorted by name.
        threshold: fewest sites with which a round can be finished.

    Raises:
        RosterError: not sorted, or a name or key stands in it twice.
        FloorError: fewer than 3 sites, or a threshold not above two thirds of them.
    """

    members: tuple[Member, ...]
    threshold: int

    def __post_init__(self) -> None:
        names = [member.site for member in self.members]
        if names != sorted(set(names)):
            raise RosterError("The roster is not sorted by site, or names a site twice.")
        if len({member.identity for member in self.members}) != len(names):
            raise RosterError("The roster gives two sites the same identity key.")
        if any(len(member.identity) != KEY_BYTES for member in self.members):
            raise RosterError(f"An identity key in the roster is not of {KEY_BYTES} bytes.")
        if not SMALLEST_COHORT <= len(names) <= MAX_SITES:
            raise FloorError(
                f"The roster has {len(names)} sites; secure aggregation needs "
                f"{SMALLEST_COHORT} to {MAX_SITES}."
            )
        if not smallest_threshold(len(names)) <= self.threshold <= len(names):
            raise FloorError(
                f"The roster's threshold is {self.threshold}; {len(names)} sites need "
                f"{smallest_threshold(len(names))} to {len(names)} (above two thirds)."
            )

    @classmethod
    def of(cls, members: dict[str, bytes], *, minimum_sites: int = SMALLEST_COHORT) -> Self:
        """The roster of these sites (name -> identity key) with the smallest safe threshold.

        Args:
            members: any order.
            minimum_sites: of the study; raises the threshold.
        """
        return cls(
            members=tuple(Member(site=site, identity=key) for site, key in sorted(members.items())),
            threshold=max(smallest_threshold(len(members)), minimum_sites),
        )

    def __len__(self) -> int:
        return len(self.members)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(member.site for member in self.members)

    def index(self, site: str) -> int:
        """Index of a site.

        Raises:
            RosterError: it is not in the roster.
        """
        try:
            return self.sites.index(site)
        except ValueError:
            raise RosterError("A site is not in the roster of this run.") from None

    def identity(self, index: int) -> bytes:
        """Identity key of the site with this index.

        Raises:
            RosterError: there is none.
        """
        if not 0 <= index < len(self.members):
            raise RosterError(f"Site {index} is not in the roster of {len(self)} sites.")
        return self.members[index].identity

    def to_bytes(self) -> bytes:
        """The encoding, as sites receive it for approval."""
        writer = Writer()
        writer.u16(self.threshold)
        writer.u16(len(self.members))
        for member in self.members:
            writer.text(member.site)
            writer.fixed(member.identity, KEY_BYTES)
        return writer.finish()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`.

        Raises:
            MessageError: malformed.
            RosterError, FloorError: as for the class.
        """
        reader = Reader(data)
        threshold = reader.u16()
        members = tuple(
            Member(site=reader.text(), identity=reader.fixed(KEY_BYTES))
            for _ in range(reader.u16())
        )
        reader.end()
        return cls(members=members, threshold=threshold)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of label and encoding: what a site approves."""
        return hashlib.sha256(_LABEL + self.to_bytes()).digest()


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What every party of a run holds fixed. Nothing in it comes from a message."""

    study_id: str
    run: str
    roster: Roster

    def setup(self, number: int) -> RoundContext:
        """Context while keys and shares of round `number` are set up."""
        return RoundContext(
            protocol=VERSION,
            study_id=self.study_id,
            run=self.run,
            round=number,
            roster_digest=self.roster.digest,
            model_digest=UNKNOWN,
            layout_digest=UNKNOWN,
        )

    def masking(self, number: int, *, layout: VectorLayout, model_digest: bytes) -> RoundContext:
        """Context of round `number` from its `MaskRequest` on.

        Raises:
            ContextError: the layout leaves room for another number of sites, so that the sum
                could overflow.
        """
        if layout.sites != len(self.roster):
            raise ContextError(
                f"The vector's layout is made for {layout.sites} sites, the roster has "
                f"{len(self.roster)}."
            )
        return RoundContext(
            protocol=VERSION,
            study_id=self.study_id,
            run=self.run,
            round=number,
            roster_digest=self.roster.digest,
            model_digest=model_digest,
            layout_digest=layout.digest(),
        )


def check_context(received: RoundContext, own: RoundContext) -> None:
    """Refuse a message from anywhere else, naming what differs.

    Raises:
        ContextError: another study, run, round, model or layout.
        RosterError: another roster, or the same sites with another threshold.
    """
    for name in own.__dataclass_fields__:
        if getattr(received, name) != getattr(own, name):
            kind = RosterError if name == "roster_digest" else ContextError
            what = name.removesuffix("_id").removesuffix("_digest")
            raise kind(f"A message is of another {what} than the one agreed on here; refused.")
