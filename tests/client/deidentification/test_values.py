"""A field for numbers or terms holds numbers and terms, and nothing else."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.valuerep import IS, DSfloat

from wardround_client.deidentification.values import (
    are_measures,
    fits_words,
    listed,
    plain,
    shifted,
    terms,
)

days = st.integers(min_value=1, max_value=3650)
dates = st.dates(min_value=date(1900, 1, 1), max_value=date(2090, 12, 31))


@given(dates, dates, days)
def test_intervals_between_the_dates_of_a_patient_stay(one, other, shift):
    moved = [
        date(int(new[:4]), int(new[4:6]), int(new[6:]))
        for new in (shifted(d.strftime("%Y%m%d"), shift) for d in (one, other))
    ]
    assert moved[1] - moved[0] == other - one
    assert one - moved[0] == timedelta(days=shift)


@pytest.mark.parametrize(
    "value", ["20240229", "2024.02.29", "20240229113000.123456+0345", "20240229 \0"]
)
def test_a_date_in_any_form_moves_and_loses_its_time(value):
    assert shifted(value, 60) == "20231231"


@pytest.mark.parametrize(
    "value", ["", "2024", "202402", "20240230", "Hvarfquist", "00010101", None]
)
def test_what_is_no_whole_date_is_emptied(value):
    assert shifted(value, 60) == ""


@pytest.mark.parametrize("value", [0, 1, -1024, 999_999, 0.5, 1e-9, DSfloat("1.50"), IS("7")])
def test_a_measure_is_one(value):
    assert are_measures([value], "1")


@pytest.mark.parametrize(
    "value",
    [
        *(1_000_000, -1_000_000, IS("19500101"), DSfloat("5551234567"), 1e-13),
        *(
            float("inf"),
            float("nan"),
            "Hvarf",
            "12a",
            "1 2",
            "0.490112233445566771",
            b"Hvarf",
            None,
            ["1"],
        ),
    ],
)
def test_what_is_more_than_a_measure_is_none(value):
    assert not are_measures([value], "1")


@pytest.mark.parametrize(
    ("count", "multiplicity", "fits"),
    [
        (1, "1", 1),
        (2, "1", 0),
        (3, "3", 1),
        (0, "1", 0),
        (64, "1-n", 1),
        (65, "1-n", 0),
        (4, "1-3", 0),
    ],
)
def test_no_more_values_than_the_standard_has(count, multiplicity, fits):
    assert are_measures([1] * count, multiplicity) == bool(fits)


@pytest.mark.parametrize(
    ("length", "multiplicity", "fits"),
    [(2, "1", 1), (4, "1", 0), (6, "3", 1), (3, "3", 0), (0, "1", 0)],
)
def test_words_without_a_sign_are_as_many_as_the_standard_has(length, multiplicity, fits):
    assert fits_words(b"a" * length, multiplicity) == bool(fits)


def test_zeros_in_front_go():
    assert plain(IS("000042"), "IS") == 42
    assert [plain(DSfloat(text), "DS") for text in ("0042.50", "-007", "0.5", "000")] == [
        *("42.50", "-7", "0.5", "0")
    ]


def test_unlisted_terms_are_left_empty_and_cut_off_at_the_end():
    allowed = frozenset({"A", "B"})
    assert terms(["A", "Hvarf", "B ", "Quist"], allowed) == ["A", "", "B"]
    assert terms(["Hvarf"], allowed) == []


def test_the_values_of_an_element():
    assert [listed(value) for value in (None, "", b"", "ab", 3, [1, 2])] == [
        *((), (), (), ("ab",), (3,), (1, 2))
    ]
