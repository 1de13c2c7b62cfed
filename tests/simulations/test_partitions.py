"""Partitions: every example once, every patient whole, the same whatever the order of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround_shared.errors import CohortError
from wardround_shared.study import Simulation
from wardround_simulations.partitions import Dirichlet, Iid, partition_of


@st.composite
def cohorts(draw):
    """Labels, patient codes and split of up to 60 examples, with at least three to train."""
    patients = np.array([0, 1, 2, *draw(st.lists(st.integers(0, 15), max_size=57))], dtype=np.int64)
    labels = draw(st.lists(st.integers(0, 2), min_size=len(patients), max_size=len(patients)))
    validating = draw(st.sets(st.integers(3, 15)))
    validation = np.isin(patients, np.array(sorted(validating), dtype=np.int64))
    return np.array(labels, dtype=np.int64), patients, validation


partitions = st.builds(Iid, sites=st.integers(1, 3), seed=st.integers(0, 5)) | st.builds(
    Dirichlet,
    sites=st.integers(1, 3),
    alpha=st.floats(0.05, 50),
    seed=st.integers(0, 5),
)


@settings(max_examples=60, deadline=None)
@given(cohorts(), partitions)
def test_every_example_has_one_site_and_every_patient_stays_whole(cohort, partition):
    labels, patients, validation = cohort
    site = partition(labels, patients, validation)
    assert site.shape == labels.shape
    assert ((site >= 0) & (site < partition.sites)).all()
    assert len(set(zip(patients.tolist(), site.tolist(), strict=True))) == len(set(patients))


@settings(max_examples=60, deadline=None)
@given(cohorts(), partitions)
def test_every_site_trains_and_validates_as_far_as_patients_suffice(cohort, partition):
    labels, patients, validation = cohort
    site = partition(labels, patients, validation)
    assert len(np.unique(site[~validation])) == partition.sites
    enough = min(partition.sites, len(np.unique(patients[validation])))
    assert len(np.unique(site[validation])) == enough


@settings(max_examples=60, deadline=None)
@given(cohorts(), partitions, st.integers(0, 100))
def test_neither_row_order_nor_a_repeat_changes_the_deal(cohort, partition, seed):
    site = partition(*cohort)
    order = np.random.default_rng(seed).permutation(len(site))
    np.testing.assert_array_equal(partition(*(array[order] for array in cohort)), site[order])


def large(count=6000):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, count)
    return labels, np.arange(count), random.random(count) < 0.2


def test_iid_sites_are_alike():
    labels, patients, validation = large()
    site = Iid(sites=8, seed=1)(labels, patients, validation)
    for side in (validation, ~validation):
        counts = np.bincount(site[side], minlength=8)
        assert counts.max() - counts.min() <= 1
    shares = [labels[site == i].mean() for i in range(8)]
    assert max(shares) - min(shares) < 0.1


def spread(alpha):
    labels, patients, validation = large()
    site = Dirichlet(sites=8, alpha=alpha, seed=3)(labels, patients, validation)
    return np.array([labels[site == i].mean() for i in range(8)]), (site, labels, validation)


def test_a_smaller_alpha_skews_the_labels_more():
    assert spread(0.1)[0].std() > 2 * spread(5.0)[0].std() > 0
    assert spread(1e6)[0].std() < 0.01


def test_a_sites_validation_has_the_labels_of_its_training():
    _, (site, labels, validation) = spread(0.5)
    for i in range(8):
        train, held_out = labels[(site == i) & ~validation], labels[(site == i) & validation]
        if min(len(train), len(held_out)) > 50:
            assert abs(train.mean() - held_out.mean()) < 0.05


def test_another_seed_deals_otherwise():
    assert (Iid(sites=8, seed=1)(*large()) != Iid(sites=8, seed=2)(*large())).any()


def test_more_sites_than_training_patients_are_refused():
    labels, patients = np.zeros(4, np.int64), np.arange(4)
    validation = np.array([True, False, False, False])
    with pytest.raises(CohortError, match="4 sites are asked for, but there are only 3 patients"):
        Iid(sites=4, seed=0)(labels, patients, validation)


def test_the_study_names_the_partition_and_the_description_every_setting():
    assert partition_of(Simulation(), sites=3, seed=1) == Iid(sites=3, seed=1)
    skewed = Simulation.model_validate({"partition": "dirichlet", "alpha": 0.3})
    partition = partition_of(skewed, sites=3, seed=1)
    assert partition == Dirichlet(sites=3, alpha=0.3, seed=1)
    assert partition.description == "Dirichlet(sites=3, alpha=0.3, seed=1)"
