"""Fingerprints that two people read to each other over the telephone.

A fingerprint is the first 160 bits of SHA-256 over labelled fields, each with its length before it
(`wardround_shared.digests`), written as ten groups of four hex digits.

What an attacker would need who sits between the two, can change every file, and knows everything
that is public:

- to pass off keys of his own under the fingerprint of somebody else's file, a second preimage:
  2**160 attempts, each with a fresh pair of keys;
- to make two files with one fingerprint, both his own, a collision: 2**80 attempts. Only the
  coordinating centre could use that (one consortium key for each of two hospitals), and it could as
  well sign two rosters with one key; against that hospitals compare their rosters;
- or a voice on the telephone that is taken for the other one. The number must come from elsewhere
  than the file or the mail that it came with.

Reading only the first groups gives this away: k groups are found in 2**(16 k) attempts, three of
them in a week on one machine. So a shortened fingerprint is refused.
"""

import hmac
import unicodedata

from wardround_shared.digests import FieldDigest
from wardround_shared.errors import EnrolmentError, TrustError

BITS = 160
_DIGITS = BITS // 4
_GROUP = 4
_PREFIX = "wardround/consortium/1/fingerprint/"


def fingerprint(purpose: str, *fields: str) -> str:
    """The fingerprint of these fields, in this order, for this purpose.

    >>> fingerprint("example", "a", "b") == fingerprint("example", "ab", "")
    False
    """
    digest = FieldDigest(_PREFIX + purpose)
    digest.number(len(fields))
    for field in fields:
        digest.text(field)
    return _grouped(digest.hexdigest()[:_DIGITS])


def require_same(spoken: str, computed: str, *, of: str) -> None:
    """Refuse what somebody typed unless it is the fingerprint of what is there.

    Args:
        spoken: with spaces, dashes, colons and capitals as they came.
        computed: by `fingerprint`.
        of: names what is there, in errors.

    Raises:
        EnrolmentError: not a whole fingerprint.
        TrustError: another one.
    """
    digits = _bare(spoken)
    if len(digits) != _DIGITS or not set(digits) <= set("0123456789abcdef"):
        raise EnrolmentError(
            f"A fingerprint has {_DIGITS} digits of 0-9 and a-f, {_DIGITS // _GROUP} groups of "
            f"{_GROUP}; have it read to you again."
        )
    if not hmac.compare_digest(digits, _bare(computed)):
        raise TrustError(
            f"{of}: its fingerprint is not the one that was read to you; the file was changed on "
            "its way, or is another one, and must not be used."
        )


def _bare(text: str) -> str:
    """Without what people and mail programs put between digits."""
    kept = (c for c in text if not (c.isspace() or c == ":" or unicodedata.category(c) == "Pd"))
    return "".join(kept).lower()


def _grouped(digits: str) -> str:
    return " ".join(digits[at : at + _GROUP] for at in range(0, len(digits), _GROUP))
