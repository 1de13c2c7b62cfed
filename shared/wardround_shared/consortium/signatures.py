"""Keys that sign documents: Ed25519 (RFC 8032), and ECDSA with SHA-384 for a node's P-384 key.

Public Ed25519 keys and signatures are hex in lower case, as documents have them.
"""

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from wardround_shared.consortium.fields import node_key
from wardround_shared.errors import EnrolmentError, TrustError

_NODE = ec.ECDSA(hashes.SHA384())


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public half of a key."""
    return key.public_key().public_bytes_raw().hex()


def sign(key: Ed25519PrivateKey, message: bytes) -> str:
    """Signature of a message that begins with a label of its own."""
    return key.sign(message).hex()


def sign_by_node(key: ec.EllipticCurvePrivateKey, message: bytes) -> str:
    """The same by a node's key."""
    return key.sign(message, _NODE).hex()


def require_signed(public: str, signature: str, message: bytes, *, refusal: str) -> None:
    """Refuse a message that was not signed.

    Raises:
        TrustError: `refusal`, a sentence.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError) as error:
        raise TrustError(refusal) from error


def require_signed_by_node(line: str, signature: str, message: bytes, *, refusal: str) -> None:
    """The same for a node's key, given as its OpenSSH line.

    Raises:
        TrustError: `refusal`, a sentence.
    """
    try:
        node_key(line).verify(bytes.fromhex(signature), message, _NODE)
    except (InvalidSignature, ValueError) as error:
        raise TrustError(refusal) from error


def private_pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PKCS #8 in PEM, not encrypted: it lies in a file of mode 0600."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(public: str) -> bytes:
    """A public Ed25519 key as PEM."""
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_signing_key(data: bytes, *, origin: str) -> Ed25519PrivateKey:
    """The inverse of `private_pem` for Ed25519.

    Raises:
        EnrolmentError: damaged, encrypted, or another kind of key.
    """
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise EnrolmentError(
            f"{origin}: this is no Ed25519 private key in PEM; bring it back from a backup."
        )
    return key


def load_public_key(data: bytes, *, origin: str) -> str:
    """The inverse of `public_pem`.

    Raises:
        EnrolmentError: damaged, or another kind of key.
    """
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise EnrolmentError(
            f"{origin}: this is no Ed25519 public key in PEM; bring it back from a backup."
        )
    return key.public_bytes_raw().hex()
