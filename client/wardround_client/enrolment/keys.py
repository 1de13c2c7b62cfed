"""A site's keys: an identity that signs (Ed25519), and a node key that opens connections (P-384).

The identity is 32 raw bytes, as secure aggregation reads it; the node key is in OpenSSH's format,
as Flower's SuperNode reads it. Both are for the site's user alone and are refused otherwise.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from wardround_shared.consortium.fields import node_key_line
from wardround_shared.consortium.files import read_secret
from wardround_shared.consortium.roster_file import RosterLine
from wardround_shared.consortium.signatures import public_hex
from wardround_shared.errors import EnrolmentError


@dataclass(frozen=True, kw_only=True)
class KeyFiles:
    """Where one pair of keys lies."""

    folder: Path

    @property
    def identity(self) -> Path:
        """Ed25519 private key, 32 bytes."""
        return self.folder / "identity.key"

    @property
    def node(self) -> Path:
        """EC P-384 private key, OpenSSH format."""
        return self.folder / "node.key"

    @property
    def node_public(self) -> Path:
        """Its public half, one line."""
        return self.folder / "node.pub"

    def all(self) -> tuple[Path, Path, Path]:
        """Every file."""
        return self.identity, self.node, self.node_public

    def exist(self) -> bool:
        """Whether anything of them is there."""
        return any(file.exists() for file in self.all())


@dataclass(frozen=True, kw_only=True)
class SiteKeys:
    """One pair of private keys."""

    identity: Ed25519PrivateKey
    node: ec.EllipticCurvePrivateKey

    @classmethod
    def generate(cls) -> Self:
        """A new pair, from the operating system's random numbers."""
        return cls(
            identity=Ed25519PrivateKey.generate(), node=ec.generate_private_key(ec.SECP384R1())
        )

    @classmethod
    def read(cls, files: KeyFiles) -> Self:
        """Read a pair.

        Raises:
            EnrolmentError: missing, damaged, or open to others than the site's user.
        """
        return cls(identity=_identity(files.identity), node=_node(files.node))

    def content(self, files: KeyFiles) -> dict[Path, bytes | None]:
        """The files of this pair."""
        private = self.node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        return {
            files.identity: self.identity.private_bytes_raw(),
            files.node: private,
            files.node_public: f"{self.node_line}\n".encode("ascii"),
        }

    @property
    def identity_hex(self) -> str:
        """The public identity, as the roster has it."""
        return public_hex(self.identity)

    @property
    def node_line(self) -> str:
        """The public node key, as the roster has it."""
        return node_key_line(self.node.public_key())

    def are_those_of(self, line: RosterLine) -> bool:
        """Whether a line of the roster names these keys."""
        return (self.identity_hex, self.node_line) == (line.identity, line.node_key)


def _identity(file: Path) -> Ed25519PrivateKey:
    try:
        return Ed25519PrivateKey.from_private_bytes(read_secret(file))
    except ValueError as error:
        raise _damaged(file) from error


def _node(file: Path) -> ec.EllipticCurvePrivateKey:
    data = read_secret(file)
    try:
        key = load_ssh_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _damaged(file) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _damaged(file)
    return key


def _damaged(file: Path) -> EnrolmentError:
    return EnrolmentError(
        f"{file}: this key is damaged or of another kind; bring it back from a backup."
    )
