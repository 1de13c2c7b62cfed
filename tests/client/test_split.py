"""The split by patient: stable, near the fraction, and never without anybody to train on."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wardround_client.split import in_validation, patient_code, with_both_sides

patient_keys = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=40)
fractions = st.floats(0.01, 0.99)


def codes_of(patients):
    return np.array([patient_code("trial", patient) for patient in patients], dtype=np.int64)


@given(patient_keys, fractions)
def test_nobody_is_on_both_sides_and_somebody_trains(patients, fraction):
    codes = codes_of(patients)
    validation = with_both_sides(codes, in_validation(codes, fraction))
    assert not set(codes[validation]) & set(codes[~validation])
    assert (~validation).any()
    assert validation.any() == (len(set(patients)) > 1)


@given(patient_keys, fractions, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(patients, fraction, random):
    shuffled = random.sample(patients, len(patients))

    def validating(order):
        codes = codes_of(order)
        return set(codes[with_both_sides(codes, in_validation(codes, fraction))].tolist())

    assert validating(patients) == validating(shuffled)


def test_a_patients_side_does_not_depend_on_who_else_is_there():
    codes = codes_of([f"p{i}" for i in range(500)])
    side = in_validation(codes, 0.2)
    np.testing.assert_array_equal(in_validation(codes[::7], 0.2), side[::7])


def test_about_the_fraction_of_the_patients_validates():
    codes = codes_of([f"p{i}" for i in range(5000)])
    # Binomial with 5,000 patients: four standard deviations are 0.023.
    assert abs(in_validation(codes, 0.2).mean() - 0.2) < 0.023


def test_codes_differ_between_studies_and_patients():
    assert patient_code("one", "p") != patient_code("two", "p")
    assert len({patient_code("one", f"p{i}") for i in range(10_000)}) == 10_000


def test_the_code_is_fixed():
    # A changed hash would silently mix training and validation patients of earlier runs.
    assert patient_code("trial", "p1") == 362_947_137_801_330_266
