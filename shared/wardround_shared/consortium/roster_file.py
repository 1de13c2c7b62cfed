"""The roster: the signed, versioned list of admitted sites with their public keys.

Each version is signed by the consortium's key and holds everything; a site that has missed some
versions needs the newest only. Whoever hands it out cannot change it. It also names the certificate
authorities that sites shall trust, so that whoever has stolen the server's keys, that of its
authority included, but not the consortium's, cannot make sites trust another.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, model_validator

from wardround_shared.consortium.authorities import AuthoritiesPem
from wardround_shared.consortium.documents import Document, Fields
from wardround_shared.consortium.fields import (
    Ed25519Hex,
    IsoDay,
    IsoTime,
    NodeKeyLine,
    SignatureHex,
    SiteName,
)
from wardround_shared.consortium.signatures import require_signed, sign
from wardround_shared.errors import TrustError

MAX_LINES = 1024


class RosterLine(Fields):
    """One site.

    Attributes:
        site: its name.
        identity: Ed25519 public key in hex; signs its part of secure aggregation.
        node_key: OpenSSH public line of EC P-384; opens its connections to the server.
        admitted: day on which these keys were admitted.
    """

    site: SiteName
    identity: Ed25519Hex
    node_key: NodeKeyLine
    admitted: IsoDay


class SignedRoster(Document):
    """One version of the roster.

    Attributes:
        version: 1 when the consortium begins, one more with each change.
        issued: when this version was signed, UTC.
        authorities: CA certificates in PEM by which sites know the server.
        lines: sorted by site.
        signature: by the consortium's key.
    """

    what: ClassVar[str] = "roster"
    label: ClassVar[bytes] = b"roster"

    kind: Literal["wardround-roster/1"] = "wardround-roster/1"
    version: Annotated[int, Field(ge=1, lt=2**31)]
    issued: IsoTime
    authorities: AuthoritiesPem
    lines: Annotated[tuple[RosterLine, ...], Field(max_length=MAX_LINES)]
    signature: SignatureHex

    @classmethod
    def sign(
        cls,
        key: Ed25519PrivateKey,
        *,
        version: int,
        issued: str,
        authorities: str,
        lines: Iterable[RosterLine],
    ) -> Self:
        """A version, signed.

        Raises:
            ValueError: as for parsing, of what callers have to check before.
        """
        unsigned = cls(
            version=version,
            issued=issued,
            authorities=authorities,
            lines=tuple(sorted(lines, key=lambda line: line.site)),
            signature="00" * 64,
        )
        return unsigned.model_copy(update={"signature": sign(key, unsigned._message())})

    def verify(self, consortium: str) -> None:
        """Refuse a roster that the consortium has not signed.

        Args:
            consortium: its public key, in hex.

        Raises:
            TrustError: not signed with that key, or changed since.
        """
        require_signed(
            consortium,
            self.signature,
            self._message(),
            refusal=(
                f"Version {self.version} of the roster is not signed by the consortium's key, or "
                "was changed since; it must not be used."
            ),
        )

    def require_newer(self, known: "SignedRoster") -> None:
        """Refuse an older version than is known, and a second form of the same version.

        The very same roster is let pass. Both must have been verified.

        Raises:
            TrustError: a rollback, or two rosters of one version.
        """
        if self.version < known.version:
            raise TrustError(
                f"Version {self.version} of the roster is older than version {known.version}, "
                "which is known here; an old roster may hold sites that were revoked."
            )
        if self.version == known.version and self != known:
            raise TrustError(
                f"There are two rosters of version {self.version} with different content; call "
                "the coordinating centre, whose server may have been set back to a backup."
            )

    def line(self, site: str) -> RosterLine | None:
        """The line of a site; None if it has none."""
        return next((line for line in self.lines if line.site == site), None)

    def identities(self) -> dict[str, bytes]:
        """Site -> Ed25519 public key, 32 bytes, as secure aggregation wants them."""
        return {line.site: bytes.fromhex(line.identity) for line in self.lines}

    def _message(self) -> bytes:
        return self.signed_bytes(without={"signature"})

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [line.site for line in self.lines]
        if any(later <= earlier for earlier, later in pairwise(names)):
            raise ValueError("the roster is not sorted by site, or names a site twice")
        for what, values in (
            ("names that differ in capitals only", [name.lower() for name in names]),
            ("the same identity key", [line.identity for line in self.lines]),
            ("the same node key", [line.node_key for line in self.lines]),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"the roster gives two sites {what}")
        return self
