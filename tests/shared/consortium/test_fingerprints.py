"""What is read over the telephone stands for the whole, however it is written down."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_shared.consortium.fingerprints import BITS, fingerprint, require_same
from wardround_shared.errors import EnrolmentError, TrustError

KNOWN = fingerprint("request", "hospital-a", "key")


def test_the_fingerprint_is_the_one_it_always_was():
    """A change of its form would make wrong what stands on paper.

    Each field is its kind, its length in 8 bytes and its bytes, worked out by hand:
    t"wardround/consortium/1/fingerprint/request" n"2" t"hospital-a" t"key".
    """
    assert KNOWN == "bac4 8cda abc0 02e2 ee1d 970a cd3e d4c5 87de 68c5"
    assert BITS == 160
    assert re.fullmatch(r"(?:[0-9a-f]{4} ){9}[0-9a-f]{4}", KNOWN)


@given(
    st.lists(
        st.sampled_from(["", " ", "  ", "-", "\n", "\t", ":", "\u2013", "\u00a0"]),
        min_size=41,
        max_size=41,
    ),
    st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_spaces_dashes_and_capitals_do_not_matter(between, capitals):
    digits = KNOWN.replace(" ", "")
    spoken = between[40] + "".join(
        gap + (digit.upper() if capital else digit)
        for gap, digit, capital in zip(between, digits, capitals, strict=False)
    )
    require_same(spoken, KNOWN, of="the file")


@given(st.integers(0, 39), st.integers(1, 15))
def test_one_wrong_digit_is_refused(place, shift):
    digits = KNOWN.replace(" ", "")
    wrong = f"{(int(digits[place], 16) + shift) % 16:x}"
    with pytest.raises(TrustError, match="not the one that was read") as raised:
        require_same(digits[:place] + wrong + digits[place + 1 :], KNOWN, of="the file")
    # Whoever sees it there would only have to type it.
    assert KNOWN[:9] not in str(raised.value)


@pytest.mark.parametrize("spoken", ["", KNOWN[:-5], KNOWN[:4], KNOWN + " 0000", KNOWN[:-1] + "g"])
def test_part_of_a_fingerprint_is_none(spoken):
    with pytest.raises(EnrolmentError, match="10 groups of 4") as raised:
        require_same(spoken, KNOWN, of="the file")
    assert not isinstance(raised.value, TrustError)


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_no_two_lists_of_fields_share_a_fingerprint(one, other):
    assert (fingerprint("p", *one) == fingerprint("p", *other)) is (one == other)
    assert fingerprint("p", *one) != fingerprint("q", *one)
