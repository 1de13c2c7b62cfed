import numpy as np
from federations import settings_of

from wardround_simulations.comparison.pooling import EVERYBODY, only, pooled
from wardround_simulations.virtual_sites import read_cohorts


def test_everybody_is_there_once_on_the_same_side(study_file, hospitals, tmp_path):
    cohorts = read_cohorts(settings_of(study_file, hospitals, tmp_path / "run"))
    (everybody,) = pooled(cohorts).cohorts
    assert everybody.site == EVERYBODY
    for side in ("train", "validation"):
        of_sites = [c.patients[getattr(c, side)] for c in cohorts.cohorts]
        np.testing.assert_array_equal(
            everybody.patients[getattr(everybody, side)], np.concatenate(of_sites)
        )
    for part, array in enumerate(everybody.arrays):
        joined = np.concatenate([cohort.arrays[part] for cohort in cohorts.cohorts])
        np.testing.assert_array_equal(array, joined)
        assert isinstance(array, np.memmap)
    targets = np.concatenate([cohort.targets for cohort in cohorts.cohorts])
    np.testing.assert_array_equal(everybody.targets, targets)


def test_it_is_made_once_and_does_not_disturb_the_cohorts(study_file, hospitals, tmp_path):
    settings = settings_of(study_file, hospitals, tmp_path / "run")
    made = pooled(read_cohorts(settings)).cohorts[0].folder / "examples.npy"
    before = made.stat().st_mtime_ns
    cohorts = read_cohorts(settings)
    pooled(cohorts)
    assert made.stat().st_mtime_ns == before
    assert [cohort.site for cohort in cohorts.cohorts] == ["north", "south", "west"]
    assert (made.parent.stat().st_mode & 0o077) == 0


def test_who_trains_in_one_place_says_so(study_file, hospitals, tmp_path):
    cohorts = read_cohorts(settings_of(study_file, hospitals, tmp_path / "run"))
    for one in (pooled(cohorts), only(cohorts, "south")):
        assert any("no federated run" in note for note in one.notes)
    assert [cohort.site for cohort in only(cohorts, "south").cohorts] == ["south"]
