"""Patients are drawn whole, at their own site, and for all ways alike."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_shared.evaluation import count
from wardround_shared.tasks.classification import Classification
from wardround_simulations.comparison.bootstrap import ALL, draws, interval, values
from wardround_simulations.comparison.measuring import counts_by_patient, together

TASK = Classification(("absent", "present"))


def one_patient(*hits):
    """Counts of a patient whose examples are classified right (True) or wrong."""
    p = np.array([[0.3, 0.7] if hit else [0.7, 0.3] for hit in hits])
    return count(p, np.ones(len(hits), int))


def site(*patients):
    return counts_by_patient([one_patient(*hits) for hits in patients], TASK.counts_length)


def accuracy(counts, times):
    return TASK.metrics(counts.summed(np.array(times)))["accuracy"]


def test_all_examples_of_a_patient_come_and_go_together():
    counts = site([True] * 9, [False])
    assert accuracy(counts, [1, 1]) == 0.9
    assert accuracy(counts, [0, 2]) == 0.0
    assert accuracy(counts, [2, 0]) == 1.0


def test_summed_once_each_patient_gives_the_counts_of_all_examples():
    counts = site([True, False], [False], [True])
    whole = one_patient(True, False, False, True)
    np.testing.assert_allclose(counts.summed(np.ones(3, int)), whole)


def test_a_drawn_patient_counts_as_often_as_drawn():
    counts = site([True], [False])
    assert accuracy(counts, [3, 1]) == 0.75


def test_sites_are_laid_together_one_after_the_other():
    north, south = site([True], [False]), site([False], [False], [True])
    both = together([north, south])
    assert both.patients == 5
    np.testing.assert_array_equal(
        both.summed(np.array([1, 0, 2, 0, 3])),
        north.summed(np.array([1, 0])) + south.summed(np.array([2, 0, 3])),
    )


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    seed=st.integers(0, 2**63 - 1),
)
def test_each_draw_has_as_many_patients_of_each_site_as_there_are(sizes, seed):
    patients = {f"site-{place}": size for place, size in enumerate(sizes)}
    found = list(draws(patients, number=3, seed=seed))
    assert len(found) == 4
    for times in found:
        assert {name: int(times[name].sum()) for name in patients} == patients
        np.testing.assert_array_equal(times[ALL], np.concatenate([times[n] for n in patients]))
    assert all((times == 1).all() for times in found[0].values())


def test_draws_are_repeated_by_their_seed_and_differ_between_sites():
    def drawn(seed):
        return [t[ALL].tolist() for t in draws({"a": 50, "b": 50}, number=2, seed=seed)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    first = drawn(1)[1]
    assert first[:50] != first[50:]


def test_the_interval_of_a_small_case_is_the_one_counted_by_hand():
    """Two patients, one right, one wrong: a draw's accuracy is 0, 1/2, 1 with 1/4, 1/2, 1/4."""
    counts = site([True], [False])
    every = [np.bincount(pick, minlength=2) for pick in itertools.product([0, 1], repeat=2)]
    drawn = iter([{ALL: np.ones(2, int)}, *({ALL: times} for times in every)])
    found = values({"way": [{ALL: counts}]}, TASK, drawn)["way"][ALL]["accuracy"]
    assert found.tolist() == [0.5, 1.0, 0.5, 0.5, 0.0]
    shown = interval(found, 20)
    assert (shown.value, shown.low, shown.high) == (
        *(0.5, pytest.approx(0.0375), pytest.approx(0.9625)),
    )


def test_the_bootstrap_error_of_a_share_is_the_known_one():
    """Of 100 patients 80 right: the standard error is sqrt(0.8 * 0.2 / 100) = 0.04."""
    counts = site(*([[True]] * 80 + [[False]] * 20))
    drawn = draws({"a": 100}, number=2000, seed=0)
    found = values({"way": [{"a": counts}]}, TASK, drawn)["way"]["a"]["accuracy"]
    assert found[1:].std() == pytest.approx(0.04, rel=0.1)
    shown = interval(found, 100)
    assert shown.low == pytest.approx(0.8 - 1.96 * 0.04, abs=0.011)
    assert shown.high == pytest.approx(0.8 + 1.96 * 0.04, abs=0.011)


def test_ways_are_measured_on_the_same_patients_of_each_draw():
    """Two ways that are right on the same patients do not differ in any draw."""
    hits = [[True]] * 12 + [[False]] * 8
    measured = {"one": [{"a": site(*hits)}], "other": [{"a": site(*hits)}]}
    found = values(measured, TASK, draws({"a": 20}, number=50, seed=3))
    one, other = (found[way]["a"]["accuracy"] for way in measured)
    assert one.std() > 0
    shown = interval(one - other, 20)
    assert (shown.value, shown.low, shown.high) == (0.0, 0.0, 0.0)


def test_repeats_are_averaged_within_each_draw():
    better, worse = site(*[[True]] * 10), site(*[[False]] * 10)
    found = values({"way": [{"a": better}, {"a": worse}]}, TASK, draws({"a": 10}, number=5, seed=0))
    assert found["way"]["a"]["accuracy"].tolist() == [0.5] * 6


def test_too_few_patients_have_no_interval():
    found = np.array([0.5, 0.4, 0.6])
    assert interval(found, 19).low is None
    assert interval(found, 20).low is not None


def test_a_metric_that_many_draws_lack_has_no_interval():
    found = np.full(101, 0.5)
    found[1:6] = np.nan
    assert interval(found, 50).low == 0.5
    found[6] = np.nan
    assert interval(found, 50).low is None
    found[0] = np.nan
    assert interval(found, 50).value is None
