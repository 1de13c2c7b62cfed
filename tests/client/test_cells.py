"""Cells mean the same however a number is written, and nothing is guessed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_client.sources.cells import (
    canonical,
    feature_values,
    identifier,
    number,
)
from wardround_shared.study import Feature


@pytest.mark.parametrize("text", ["63", "63.0", "63.", "+63", "6.3e1", "0063"])
def test_spellings_of_one_number_are_one_category(text):
    assert canonical(text) == canonical("63")


@given(st.integers(-(10**9), 10**9))
def test_whole_numbers_keep_their_identity(value):
    assert canonical(str(value)) == canonical(f"{value}.0")
    assert canonical(str(value)) != canonical(str(value + 1))


@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-inf", "1e999", "3,5", "1_0", "> 89", ""])
def test_what_is_no_finite_decimal_number_is_none(text):
    assert number(text) is None


def test_zero_has_one_spelling():
    assert {canonical(text) for text in ["0", "0.0", "-0", "0e5"]} == {"0"}


def test_keys_lose_only_the_trailing_zero_of_whole_numbers():
    assert identifier("15709.0") == "15709"
    assert identifier("007") == "007"
    assert identifier("1.2.840.0") == "1.2.840.0"


def test_missing_marks_hold_per_column_and_globally():
    features = [Feature(column="a", missing=("-9", "0")), Feature(column="b")]
    values, faults = feature_values(
        [["1", "-9.0", "0", "?"], ["0", "2", "?", "-9"]], features, ["?"]
    )
    np.testing.assert_array_equal(values, [[1, 0], [np.nan, 2], [np.nan, np.nan], [np.nan, -9]])
    assert not faults


def test_a_cell_that_is_neither_value_nor_missing_is_a_fault_of_its_row():
    features = [
        Feature(column="a"),
        Feature(column="b", kind="categorical", categories=("1", "2")),
    ]
    values, faults = feature_values([["1", "high", "nan"], ["2.0", "1", "3"]], features, [""])
    assert values[0].tolist() == [1.0, 1.0]
    assert faults == {
        1: "column a holds no finite number",
        2: "column a holds no finite number",
    }
    assert "high" not in str(faults)


def test_a_cell_that_is_no_number_may_be_given_one():
    feature = Feature(column="age", values={"> 89": 90.0, "unborn": 0.0}, missing=("?",))
    cells = ["45", "> 89", "unborn", "?", "> 90"]
    values, faults = feature_values([cells], [feature], [""])
    assert values[:3, 0].tolist() == [45.0, 90.0, 0.0]
    assert np.isnan(values[3, 0])
    assert faults == {4: "column age holds no finite number"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_cell_is_given_what_is_no_number(value):
    with pytest.raises(ValueError, match="finite"):
        Feature(column="age", values={"> 89": value})


def test_a_category_has_no_value():
    with pytest.raises(ValueError, match="numeric column"):
        Feature(column="sex", kind="categorical", categories=("f", "m"), values={"f": 1.0})
