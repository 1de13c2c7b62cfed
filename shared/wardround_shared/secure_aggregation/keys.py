"""Keys: agreed between two sites, derived for one purpose, or proving who somebody is.

Every derived key comes from HKDF-SHA256 (RFC 5869) without salt, whose `info` is a versioned label
for the purpose, the round's context, the sites by their index in the roster, and the public keys
from which the secret came; integers are big-endian and texts have their length before them. X25519
is RFC 7748, Ed25519 RFC 8032, ChaCha20-Poly1305 RFC 8439. Keys are bytes in those documents' form.
"""

from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wardround_shared.secure_aggregation.codec import Writer
from wardround_shared.secure_aggregation.faults import MessageError, ShareError, SignatureError
from wardround_shared.secure_aggregation.streams import KEY_BYTES, RandomBytes

_DIGEST_BYTES = 32
_PREFIX = "wardround/secure-aggregation/1/"
_PAIR_MASK = _PREFIX + "pair-mask"
_SELF_MASK = _PREFIX + "self-mask"
_SEAL = _PREFIX + "seal"

# The nonce is fixed because each key seals one message: both X25519 keys are drawn for one round,
# the key differs in the two directions, and a site deals its shares once a round.
_NONCE = bytes(12)


@dataclass(frozen=True, kw_only=True)
class RoundContext:
    """What a key, a signature or a message is good for, and nothing else.

    Attributes:
        protocol: version of wardround's messages.
        study_id: hash of the study.
        run: name of the run.
        round: number of the round.
        roster_digest: 32 bytes.
        model_digest: 32 bytes; zero while keys for a coming round are set up.
        layout_digest: 32 bytes, `VectorLayout.digest`; zero likewise.
    """

    protocol: int
    study_id: str
    run: str
    round: int
    roster_digest: bytes
    model_digest: bytes
    layout_digest: bytes

    def encode(self) -> bytes:
        """The one encoding of this context; no two contexts share it.

        Raises:
            MessageError: a text is too long, or a digest is not of 32 bytes.
        """
        writer = Writer()
        writer.u16(self.protocol)
        writer.text(self.study_id)
        writer.text(self.run)
        writer.u32(self.round)
        for digest in (self.roster_digest, self.model_digest, self.layout_digest):
            writer.fixed(digest, _DIGEST_BYTES)
        return writer.finish()


# --- agreement -------------------------------------------------------------------------------


def new_pair(random: RandomBytes) -> tuple[bytes, bytes]:
    """A fresh X25519 pair: private key (sensitive) and public key, 32 bytes each."""
    private = random(KEY_BYTES)
    return private, public_key(private)


class AgreementKey:
    """An X25519 private key, unpacked once for several agreements.

    Raises:
        MessageError: not 32 bytes.
    """

    def __init__(self, private: bytes) -> None:
        try:
            self._key = X25519PrivateKey.from_private_bytes(private)
        except ValueError as error:
            raise MessageError("A private key is malformed.") from error
        self.public = self._key.public_key().public_bytes_raw()

    def agree(self, public: bytes, info: bytes) -> bytes:
        """Key (32 bytes) that this and the other private key give under HKDF with `info`.

        Raises:
            MessageError: the public key is malformed or forces a known secret.
        """
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:  # malformed, or of small order: the secret would be all zeros
            raise MessageError("A site's public key is malformed.") from error
        return _derive(shared, info)


def public_key(private: bytes) -> bytes:
    """The X25519 public key of a private one.

    Raises:
        MessageError: not 32 bytes.
    """
    return AgreementKey(private).public


def pairwise_seed(
    private: bytes | AgreementKey, public: bytes, *, context: RoundContext, mine: int, theirs: int
) -> bytes:
    """Seed of the mask that two sites share in one round; both get the same.

    Args:
        private: this site's X25519 key of the round.
        public: the other site's, from a signed advertisement.
        context: of the round, with model and layout.
        mine: index of this site in the roster.
        theirs: index of the other site.

    Returns:
        32 bytes, sensitive.

    Raises:
        MessageError: a key is malformed or forces a known secret, or both sites are the same.
    """
    key = _unpacked(private)
    ends = [(mine, key.public), (theirs, public)]
    return key.agree(public, _info(_PAIR_MASK, context, sorted(ends)))


def self_mask_seed(self_seed: bytes, *, context: RoundContext, site: int) -> bytes:
    """Seed of a site's own mask, 32 bytes, from the secret that is shared out."""
    return _derive(self_seed, _info(_SELF_MASK, context, [(site, b"")]))


# --- sealing ---------------------------------------------------------------------------------


def seal(
    plaintext: bytes,
    *,
    private: bytes | AgreementKey,
    public: bytes,
    context: RoundContext,
    sender: int,
    receiver: int,
) -> bytes:
    """Encrypt the one message that a site sends to another in a round.

    Calling it twice for the same round and pair with different plaintexts gives both away.

    Args:
        plaintext: the message.
        private: the sender's X25519 key of the round.
        public: the receiver's, from a signed advertisement.
        context: of the round; authenticated, not sent.
        sender: its index in the roster; likewise.
        receiver: its index in the roster; likewise.

    Returns:
        Ciphertext and tag, 16 bytes longer than the plaintext.

    Raises:
        MessageError: a key is malformed or forces a known secret, or both sites are the same.
    """
    key = _unpacked(private)
    info = _info(_SEAL, context, [(sender, key.public), (receiver, public)])
    return ChaCha20Poly1305(key.agree(public, info)).encrypt(_NONCE, plaintext, info)


def open_sealed(
    sealed: bytes,
    *,
    private: bytes | AgreementKey,
    public: bytes,
    context: RoundContext,
    sender: int,
    receiver: int,
) -> bytes:
    """The plaintext of `seal`; here `private` is the receiver's key and `public` the sender's.

    Raises:
        ShareError: not sealed by that sender, for this receiver, in this context; or changed.
        MessageError: as for `seal`.
    """
    key = _unpacked(private)
    info = _info(_SEAL, context, [(sender, public), (receiver, key.public)])
    try:
        return ChaCha20Poly1305(key.agree(public, info)).decrypt(_NONCE, sealed, info)
    except InvalidTag as error:
        raise ShareError(
            f"What site {sender} is said to have sealed for site {receiver} was not sealed by it "
            "in this round; this site takes no part in the round."
        ) from error


# --- identity --------------------------------------------------------------------------------


class Identity:
    """A site's Ed25519 private key: what makes it the site that the roster names."""

    def __init__(self, private: bytes) -> None:
        """The identity with this private key, 32 bytes."""
        self._key = Ed25519PrivateKey.from_private_bytes(private)

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes, as the roster holds it."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Signature, 64 bytes, of a message that begins with a label of its own."""
        return self._key.sign(message)


def verify(public: bytes, signature: bytes, message: bytes) -> None:
    """Refuse a message that was not signed.

    Args:
        public: Ed25519 public key from the roster.
        signature: 64 bytes.
        message: what is said to have been signed.

    Raises:
        SignatureError: not signed with that key, or a key or signature that is malformed.
    """
    try:
        _verify(bytes(public), bytes(signature), bytes(message))
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(
            "A message is not signed by the site that it is said to be from."
        ) from error


# Whether a signature is good depends on these three and nothing else, and only good ones are
# remembered (an exception is not). Many simulated sites share a process and are all shown the same
# signatures.
@lru_cache(maxsize=1024)
def _verify(public: bytes, signature: bytes, message: bytes) -> None:
    Ed25519PublicKey.from_public_bytes(public).verify(signature, message)


# --- parts -----------------------------------------------------------------------------------


def _unpacked(private: bytes | AgreementKey) -> AgreementKey:
    return private if isinstance(private, AgreementKey) else AgreementKey(private)


def _derive(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def _info(label: str, context: RoundContext, ends: list[tuple[int, bytes]]) -> bytes:
    """Label, context, and each site's index and public key."""
    if len({site for site, _ in ends}) != len(ends):
        raise MessageError("A key was to be agreed between a site and itself.")
    writer = Writer()
    writer.text(label)
    encoded = context.encode()
    writer.fixed(encoded, len(encoded))
    for site, public in ends:
        writer.u16(site)
        writer.fixed(public, len(public))
    return writer.finish()
