"""Any `threshold` shares give the secret back, fewer say nothing, and false ones are noticed."""

import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround_shared.secure_aggregation.faults import ShareError, ThresholdError
from wardround_shared.secure_aggregation.shares import SHARE_BYTES, combine, split

SECRET = bytes(range(32))


@settings(max_examples=25)
@given(st.data(), st.binary(min_size=32, max_size=32))
def test_any_threshold_shares_give_the_secret_back(data, secret):
    sites = data.draw(st.integers(2, 12))
    threshold = data.draw(st.integers(2, sites))
    dealt = split(secret, threshold=threshold, sites=sites)
    held = data.draw(st.permutations(dealt))[: data.draw(st.integers(threshold, sites))]
    assert combine(held, threshold=threshold) == secret


def test_every_subset_of_the_threshold_gives_the_same_secret():
    dealt = split(SECRET, threshold=3, sites=5)
    assert {combine(held, threshold=3) for held in itertools.combinations(dealt, 3)} == {SECRET}


def test_shares_are_numbered_from_one_and_of_one_length():
    dealt = split(SECRET, threshold=2, sites=300)
    assert [int.from_bytes(share[:2], "big") for share in dealt] == list(range(1, 301))
    assert {len(share) for share in dealt} == {SHARE_BYTES}


def test_fewer_than_the_threshold_give_nothing():
    dealt = split(SECRET, threshold=4, sites=5)
    with pytest.raises(ThresholdError):
        combine(dealt[:3], threshold=4)
    # And whoever lies about the threshold gets something else.
    assert combine(dealt[:3], threshold=3) != SECRET


def test_shares_below_the_threshold_are_unrelated_to_the_secret():
    # One share of two of a secret of zeros: every byte value comes up about as often.
    first = b"".join(split(bytes(32), threshold=2, sites=2)[0][2:] for _ in range(400))
    counts = [first.count(bytes([value])) for value in range(256)]
    mean = len(first) / 256
    # 255 degrees of freedom: beyond 400 once in ten million runs or less.
    assert sum((count - mean) ** 2 / mean for count in counts) < 400


def test_the_two_halves_and_two_dealings_have_coefficients_of_their_own():
    again = [split(bytes(32), threshold=2, sites=2)[0] for _ in range(2)]
    assert again[0] != again[1]
    assert again[0][2:18] != again[0][18:]


@pytest.mark.parametrize("at", [2, 17, 18, 33])
def test_a_tampered_share_gives_another_secret_and_no_error(at):
    # It is noticed where the secret is compared with its commitment, see the module's docstring.
    dealt = split(SECRET, threshold=3, sites=4)
    tampered = bytearray(dealt[0])
    tampered[at] ^= 1
    assert combine([bytes(tampered), *dealt[1:3]], threshold=3) != SECRET


def test_a_share_of_another_secret_is_no_error_either():
    dealt, other = (split(secret, threshold=2, sites=3) for secret in (SECRET, os.urandom(32)))
    assert combine([dealt[0], other[1]], threshold=2) != SECRET


def test_duplicates_are_refused_even_beyond_the_threshold():
    dealt = split(SECRET, threshold=2, sites=3)
    with pytest.raises(ShareError, match="same index"):
        combine([*dealt, dealt[0]], threshold=2)


@pytest.mark.parametrize("share", [b"", bytes(SHARE_BYTES), b"\1" * 33, b"\1" * 35])
def test_a_malformed_share_is_refused(share):
    dealt = split(SECRET, threshold=2, sites=3)
    with pytest.raises(ShareError, match="malformed"):
        combine([*dealt, share], threshold=2)


@pytest.mark.parametrize(("threshold", "sites"), [(1, 3), (0, 3), (4, 3), (2, 2**16)])
def test_an_impossible_dealing_is_refused(threshold, sites):
    with pytest.raises(ValueError, match="threshold"):
        split(SECRET, threshold=threshold, sites=sites)
    with pytest.raises(ValueError, match="32 bytes"):
        split(SECRET[:16], threshold=2, sites=3)
