"""A record against the others of its patient: known answers, and what must hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_client.sources.within_patient import (
    NEIGHBOURS,
    median_signals,
    over_neighbours,
    over_patient,
    variation,
)

NAN = np.nan
FORMS = [over_patient, over_neighbours, variation]


def test_over_patient_is_the_share_of_the_patients_own_median():
    values = np.array([1.0, 10.0, 3.0, NAN, 20.0, 2.0])
    shares = over_patient(values, ["a", "b", "a", "a", "b", "a"])
    np.testing.assert_allclose(shares, [0.5, 10 / 15, 1.5, NAN, 20 / 15, 1.0])


def test_over_neighbours_looks_ten_rows_back_and_ten_ahead():
    values = np.array([1.0] * 30 + [4.0] * 30)
    shares = over_neighbours(values, ["a"] * 60)
    np.testing.assert_allclose(shares, 1.0)
    early = values.copy()
    early[15] = 0.5
    assert over_neighbours(early, ["a"] * 60)[15] == 0.5
    first = over_neighbours(np.array([1.0, 2.0, 3.0]), ["a"] * 3)
    np.testing.assert_allclose(first, [0.5, 1.0, 1.5])


def test_variation_is_the_mean_step_over_the_median():
    np.testing.assert_allclose(variation(np.array([1.0, 2.0, 1.0, 2.0]), ["a"] * 4), 1 / 1.5)
    np.testing.assert_allclose(variation(np.full(50, 3.0), ["a"] * 50), 0.0)
    late = np.array([2.0] * 40 + [3.0])
    far = variation(late, ["a"] * 41)
    assert not far[: 40 - NEIGHBOURS].any()
    np.testing.assert_allclose(far[40], 1.0 / NEIGHBOURS / 2.0)


@pytest.mark.parametrize("form", FORMS)
def test_a_patient_without_any_valid_value_stays_missing(form):
    assert np.isnan(form(np.array([NAN, NAN]), ["a", "a"])).all()
    assert np.isnan(form(np.array([0.0]), ["a"])).all()
    assert len(form(np.array([]), [])) == 0


def test_a_value_that_stands_alone_has_no_variation():
    assert np.isnan(variation(np.array([1.0, NAN, 2.0]), ["a", "a", "b"])).all()


@pytest.mark.parametrize("form", FORMS)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.none() | st.floats(min_value=0.25, max_value=4.0, width=32),
        ),
        max_size=60,
    ),
    st.sampled_from([0.5, 2.0, 8.0]),
)
def test_forms_have_no_unit_and_see_no_other_patient(form, rows, factor):
    patients = [patient for patient, _ in rows]
    values = np.array([NAN if value is None else value for _, value in rows])
    whole = form(values, patients)
    np.testing.assert_allclose(form(values * factor, patients), whole)
    for patient in set(patients):
        own = [row for row, name in enumerate(patients) if name == patient]
        np.testing.assert_array_equal(form(values[own], [patient] * len(own)), whole[own])


def test_median_signals_are_of_the_patient_and_of_nobody_else():
    signals = np.array([[[0, 0]], [[9, 9]], [[2, 4]], [[4, 8]]], np.float32)
    medians = median_signals(signals, ["a", "b", "a", "a"])
    np.testing.assert_array_equal(medians[:, 0], [[2, 4], [9, 9], [2, 4], [2, 4]])
    assert medians.dtype == np.float32


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_signal_that_is_not_finite_spoils_no_other(wrong):
    signals = np.array([[1, 2], [wrong, 4], [3, 4], [wrong, 0]], np.float32)
    medians = median_signals(signals, ["a", "a", "a", "b"])
    np.testing.assert_array_equal(medians[:3], [[2, 3]] * 3)
    assert np.isnan(medians[3]).all()
