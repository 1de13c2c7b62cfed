"""The two files of enrolment: a site asks (`JoinRequest`), the consortium answers (`Admission`).

Neither holds a secret. Both travel over channels that anybody may read and change, by mail say;
what makes them true is their fingerprint, compared over the telephone.
"""

from typing import Annotated, ClassVar, Literal, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, model_validator

from wardround_shared.consortium.documents import Document
from wardround_shared.consortium.fields import (
    Address,
    Ed25519Hex,
    IsoTime,
    NodeKeyLine,
    NodeSignatureHex,
    SignatureHex,
    SiteName,
    SoftwareVersion,
    node_key_line,
)
from wardround_shared.consortium.fingerprints import fingerprint
from wardround_shared.consortium.roster_file import SignedRoster
from wardround_shared.consortium.signatures import (
    public_hex,
    require_signed,
    require_signed_by_node,
    sign,
    sign_by_node,
)

REQUEST_SUFFIX = ".wardround-request"
ANSWER_SUFFIX = ".wardround-answer"

_SIGNATURES = ("signature", "node_signature", "previous_signature")
_UNSIGNED = "00" * 64


class JoinRequest(Document):
    """A site's request to be admitted, or to have its keys replaced.

    Attributes:
        site: the name it asks for.
        identity: Ed25519 public key in hex.
        node_key: OpenSSH public line of EC P-384.
        software: version of wardround at the site.
        protocol: version of the messages that it speaks.
        made: when it was written, UTC.
        previous: with a replacement of keys, the identity that stands in the roster.
        signature: by the identity.
        node_signature: by the node key: nobody can ask for a key that is not his.
        previous_signature: by the previous identity, if there is one.
    """

    what: ClassVar[str] = "join request"
    label: ClassVar[bytes] = b"join-request"

    kind: Literal["wardround-join-request/1"] = "wardround-join-request/1"
    site: SiteName
    identity: Ed25519Hex
    node_key: NodeKeyLine
    software: SoftwareVersion
    protocol: Annotated[int, Field(ge=1, lt=2**31)]
    made: IsoTime
    previous: Ed25519Hex | None
    signature: SignatureHex
    node_signature: NodeSignatureHex
    previous_signature: SignatureHex | None

    @classmethod
    def sign(
        cls,
        *,
        site: str,
        identity: Ed25519PrivateKey,
        node: ec.EllipticCurvePrivateKey,
        software: str,
        protocol: int,
        made: str,
        previous: Ed25519PrivateKey | None = None,
    ) -> Self:
        """A request, signed with all its keys."""
        unsigned = cls(
            site=site,
            identity=public_hex(identity),
            node_key=node_key_line(node.public_key()),
            software=software,
            protocol=protocol,
            made=made,
            previous=None if previous is None else public_hex(previous),
            signature=_UNSIGNED,
            node_signature=_UNSIGNED,
            previous_signature=None if previous is None else _UNSIGNED,
        )
        message = unsigned._message()
        signatures = {
            "signature": sign(identity, message),
            "node_signature": sign_by_node(node, message),
            "previous_signature": None if previous is None else sign(previous, message),
        }
        return unsigned.model_copy(update=signatures)

    def verify(self) -> None:
        """Refuse a request that its own keys have not signed, each of them.

        Whose keys these are is for the telephone; that `previous` is the site's, for the roster.

        Raises:
            TrustError: a signature is missing or wrong.
        """
        message = self._message()
        refusal = (
            f"The join request of {self.site} is not signed by its {{}}, or was changed since; it "
            "must not be used."
        )
        identity, node = refusal.format("identity key"), refusal.format("node key")
        require_signed(self.identity, self.signature, message, refusal=identity)
        require_signed_by_node(self.node_key, self.node_signature, message, refusal=node)
        if self.previous is not None and self.previous_signature is not None:
            previous = refusal.format("previous identity key")
            require_signed(self.previous, self.previous_signature, message, refusal=previous)

    @property
    def fingerprint(self) -> str:
        """What the site reads to the coordinating centre: it stands for its name and all keys."""
        return fingerprint(
            "request", self.site, self.identity, self.node_key, self.previous or "none"
        )

    def _message(self) -> bytes:
        return self.signed_bytes(without=_SIGNATURES)

    @model_validator(mode="after")
    def _previous_signs(self) -> Self:
        if (self.previous is None) is not (self.previous_signature is None):
            raise ValueError("a previous identity and its signature go together")
        if self.previous == self.identity:
            raise ValueError("the new identity is the previous one")
        return self


class Admission(Document):
    """What a site gets when it was admitted.

    Attributes:
        address: `host:port` at which sites reach the server.
        consortium: the public key that signs rosters, Ed25519 in hex.
        roster: the version in force, with the site's line and the certificate authorities.
    """

    what: ClassVar[str] = "answer to a join request"

    kind: Literal["wardround-answer/1"] = "wardround-answer/1"
    address: Address
    consortium: Ed25519Hex
    roster: SignedRoster

    def verify(self) -> None:
        """Refuse an answer whose roster is another consortium's, or was changed.

        This says nothing about who made the answer, which is for the fingerprint.

        Raises:
            TrustError: the roster is not signed by the consortium's key.
        """
        self.roster.verify(self.consortium)

    @property
    def authorities(self) -> str:
        """The CA certificates in PEM by which the site will know the server."""
        return self.roster.authorities

    @property
    def fingerprint(self) -> str:
        """What the coordinating centre reads to a site: consortium key, authorities and address.

        It is the same for all sites, and may stand on paper or on a web page beside that.
        """
        return fingerprint("answer", self.consortium, self.authorities, self.address)
