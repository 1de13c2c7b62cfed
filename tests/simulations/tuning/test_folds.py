import numpy as np
import pytest
from federations import settings_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wardround_shared.errors import CohortError
from wardround_simulations.tuning.folds import fold_cohorts, fold_of
from wardround_simulations.virtual_sites import read_cohorts

CODES = arrays.arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 2**63 - 1))


@given(codes=CODES, folds=st.integers(2, 5), seed=st.integers(0, 2**63 - 1))
def test_a_patient_is_in_one_fold_whoever_else_is_there(codes, folds, seed):
    twice = np.concatenate([codes, codes[::-1]])
    number = fold_of(twice, folds, seed)
    assert ((number >= 0) & (number < folds)).all()
    np.testing.assert_array_equal(number[: len(codes)], number[len(codes) :][::-1])
    np.testing.assert_array_equal(fold_of(codes[:1], folds, seed), number[:1])


def test_another_seed_deals_otherwise():
    codes = np.random.default_rng(0).integers(0, 2**63, 200)
    one = fold_of(codes, 3, 0)
    assert (one != fold_of(codes, 3, 1)).any()
    assert np.bincount(one).min() > 40


def test_training_patients_validate_once_and_validation_patients_never(
    study_file, hospitals, tmp_path
):
    cohorts = read_cohorts(settings_of(study_file, hospitals, tmp_path / "run"))
    folds = fold_cohorts(cohorts, 3, 7)
    assert folds[0].cohorts[0].folder == fold_cohorts(cohorts, 3, 7)[0].cohorts[0].folder
    for place, cohort in enumerate(cohorts.cohorts):
        of_folds = [fold.cohorts[place] for fold in folds]
        validating = np.concatenate([one.patients[one.validation] for one in of_folds])
        np.testing.assert_array_equal(np.sort(validating), np.sort(cohort.patients[cohort.train]))
        for one in of_folds:
            assert one.site == cohort.site
            assert not set(one.patients[one.train]) & set(one.patients[one.validation])
            assert not set(one.patients) & set(cohort.patients[cohort.validation])
            np.testing.assert_array_equal(one.arrays[0], cohort.arrays[0][cohort.train])
            np.testing.assert_array_equal(one.targets, cohort.targets[cohort.train])


def test_folds_that_nobody_is_in_are_refused(study_file, hospitals, tmp_path):
    for file in hospitals.glob("*.csv"):
        file.write_text("\n".join(file.read_text().splitlines()[:4]) + "\n")
    cohorts = read_cohorts(settings_of(study_file, hospitals, tmp_path / "run"))
    with pytest.raises(CohortError, match="--folds 20"):
        fold_cohorts(cohorts, 20, 0)
