"""Shamir's secret sharing (1979) of a 32-byte secret, as two elements of GF(2^128).

Splitting is pycryptodome's (field polynomial x^128 + x^7 + x^2 + x + 1, an element's most
significant byte first); rebuilding interpolates many secrets at once (`field`), and is tested
against the library's. Each half of the secret is the constant term of a polynomial of its own;
share i holds both values at i.

A share says nothing about whether it is true: one that was tampered with gives a wrong secret and
no error here. Shares are therefore sealed with an AEAD on their way (`keys.seal`), and whoever
rebuilds a secret compares it with what its owner has signed: a masking key with its public key, a
self seed with its commitment (`ShareError` there).
"""

from collections.abc import Sequence

from Crypto.Protocol.SecretSharing import Shamir

from wardround_shared.secure_aggregation.faults import ShareError, ThresholdError
from wardround_shared.secure_aggregation.field import multiply, weights_at_zero

SECRET_BYTES = 32
SHARE_BYTES = 34
"""Index (2 bytes, big-endian, from 1), value of the first half, value of the second half."""

_HALF = SECRET_BYTES // 2
_HALVES = (slice(SHARE_BYTES - SECRET_BYTES, SHARE_BYTES - _HALF), slice(SHARE_BYTES - _HALF, None))
_INDEX_BYTES = SHARE_BYTES - SECRET_BYTES
_MOST_SITES = 2 ** (8 * _INDEX_BYTES) - 1


def split(secret: bytes, *, threshold: int, sites: int) -> list[bytes]:
    """Shares of a secret; `threshold` of them give it back, fewer say nothing about it.

    The coefficients come from the operating system: the library takes no other source, so that
    this is the one place of the protocol where randomness is not an argument.

    Args:
        secret: 32 bytes.
        threshold: from 2 to `sites`.
        sites: number of shares.

    Returns:
        Shares of 34 bytes, with the indices 1 to `sites`. Sensitive.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 2 <= threshold <= sites <= _MOST_SITES:
        raise ValueError(f"threshold {threshold} of {sites} shares")
    halves = (
        Shamir.split(threshold, sites, secret[:_HALF], ssss=False),
        Shamir.split(threshold, sites, secret[_HALF:], ssss=False),
    )
    return [
        index.to_bytes(_INDEX_BYTES, "big") + first + second
        for (index, first), (_, second) in zip(*halves, strict=True)
    ]


def combine(shares: Sequence[bytes], *, threshold: int) -> bytes:
    """The secret that shares were dealt of, if none of them was tampered with.

    Args:
        shares: at least `threshold`, in any order; the lowest indices are used.
        threshold: as for `split`.

    Returns:
        32 bytes; sensitive. To be compared with what the owner committed to.

    Raises:
        ShareError: a share is malformed, or two have the same index.
        ThresholdError: fewer than `threshold`.
    """
    return combine_all([shares], threshold=threshold)[0]


def combine_all(secrets: Sequence[Sequence[bytes]], *, threshold: int) -> list[bytes]:
    """`combine` for several secrets whose shares are held by the same sites, in the same order.

    The weights of the interpolation depend on the holders only, so that they are worked out once;
    this is what makes up most of a server's work with many sites.

    Raises:
        ShareError, ThresholdError: as for `combine`, for any of the secrets.
    """
    for shares in secrets:
        _check(shares, threshold)
    if not secrets:
        return []
    indices = [int.from_bytes(share[:_INDEX_BYTES], "big") for share in secrets[0]]
    used = sorted(range(len(indices)), key=indices.__getitem__)[:threshold]
    if any(
        [share[:_INDEX_BYTES] for share in shares] != [s[:_INDEX_BYTES] for s in secrets[0]]
        for shares in secrets
    ):
        raise ShareError("The shares of two secrets are not held by the same sites.")
    weights = weights_at_zero([indices[place] for place in used])
    return [
        b"".join(
            _weighted_sum(weights, [shares[place][half] for place in used]) for half in _HALVES
        )
        for shares in secrets
    ]


def _weighted_sum(weights: Sequence[int], values: Sequence[bytes]) -> bytes:
    total = 0
    for weight, value in zip(weights, values, strict=True):
        total ^= multiply(weight, int.from_bytes(value, "big"))
    return total.to_bytes(_HALF, "big")


def _check(shares: Sequence[bytes], threshold: int) -> None:
    if any(len(share) != SHARE_BYTES or share[:_INDEX_BYTES] == b"\0\0" for share in shares):
        raise ShareError("A share of a secret is malformed; leave out the site that sent it.")
    if len({share[:_INDEX_BYTES] for share in shares}) != len(shares):
        raise ShareError("Two shares of a secret have the same index; one is not the one dealt.")
    if len(shares) < threshold:
        raise ThresholdError(
            f"{len(shares)} shares of a secret are there, {threshold} are needed; the round is "
            "given up."
        )
