"""The record step for texts: words become numbers, by a hash that is the same everywhere.

No site's words are needed to agree on a vocabulary, and no list of them exists: this is feature
hashing (Weinberger et al. 2009, "Feature hashing for large scale multitask learning"), without its
signs, which a learned vector for each bucket has no use for. The model takes the numbers modulo
its buckets.

n = columns of text, N = lengths of word runs (1: words; 2: words and pairs), L = positions.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import UnreadableError
from wardround_shared.study import HashWords

Tokens = NDArray[np.int32]

PADDING = 0
"""Stands where there is no word; no hash is 0."""

_LARGEST = 2**31 - 1  # of int32
# Whoever changes a rule below changes all numbers, so the rules have a name that is hashed too.
_RULES = b"wardround-word-1"
# No word: between one column and the next.
_NEXT_COLUMN = "\x1f"
_WORDS = re.compile(r"\?|[^\s?]+")


def decode_text(texts: NDArray[np.str_], step: HashWords) -> Tokens:
    """Take the texts of one record to numbers.

    Of a text that is too long the first and the last `length / 2` words are kept.

    Args:
        texts: [n], read one after the other.
        step: how long, and which runs of words.

    Returns:
        int32 [N, L], from 1 to 2^31 - 1; row k has the runs of k + 1 words that begin at each
        position; 0 where none does.

    Raises:
        UnreadableError: there is no word.
    """
    columns = [words(str(text)) for text in texts]
    if not any(columns):
        raise UnreadableError("the text has no word.")
    joined = columns[0]
    for column in columns[1:]:
        joined = [*joined, _NEXT_COLUMN, *column]
    if len(joined) > step.length:
        head = (step.length + 1) // 2
        joined = [*joined[:head], *joined[len(joined) - (step.length - head) :]]
    tokens = np.full((step.runs, step.length), PADDING, dtype=np.int32)
    for row in range(step.runs):
        numbers = [hashed(joined[i : i + row + 1]) for i in range(len(joined) - row)]
        tokens[row, : len(numbers)] = numbers
    return tokens


def words(text: str) -> list[str]:
    """The words of a text, in order.

    Characters are brought to one form (NFKC) and to lower case. A word is a run of letters, marks,
    digits and apostrophes; each digit becomes a 0, so that a number shows its length and not its
    value; a question mark is a word of its own; all else separates.
    """
    form = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    runs = (run.strip("'") for run in _WORDS.findall(form.translate(_SIGNS)))
    return [run for run in runs if run]


def hashed(run: Sequence[str]) -> int:
    """The number of a run of words, 1 to 2^31 - 1.

    BLAKE2b (RFC 7693), not keyed: all sites and the server of a study would know the key.
    """
    digest = hashlib.blake2b(" ".join(run).encode(), digest_size=8, person=_RULES).digest()
    return int.from_bytes(digest, "big") % _LARGEST + 1


class _Signs(dict[int, str]):
    """What becomes of each character, found out when it is first seen."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        kind = unicodedata.category(sign)
        if sign in "'\u2019":
            sign = "'"
        elif kind[0] == "N":
            sign = "0"
        elif kind[0] not in "LM":
            sign = f" {sign} " if sign == "?" else " "
        self[code] = sign
        return sign


_SIGNS = _Signs()
