"""Membership figures against their definitions, and intervals against what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from wardround_simulations.auditing.scores import auroc, true_positive_rate

FEW = st.lists(st.integers(0, 5), min_size=1, max_size=30)


@given(inside=FEW, outside=FEW)
def test_the_area_is_scikit_learns_with_ties_and_its_interval_holds_it(inside, outside):
    found = auroc(np.array(inside, float), np.array(outside, float), confidence=0.95)
    truth = [1] * len(inside) + [0] * len(outside)
    assert found.value == pytest.approx(roc_auc_score(truth, inside + outside))
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0


def test_the_interval_covers_the_true_area_about_as_often_as_it_says():
    rng, true = np.random.default_rng(5), 0.7602499389065233  # of normals one apart
    covered = 0
    for _ in range(500):
        found = auroc(rng.normal(1, 1, 60), rng.normal(0, 1, 80), confidence=0.95)
        covered += found.low <= true <= found.high
    assert 0.92 < covered / 500 < 0.98


def test_members_all_told_apart_are_still_a_sample():
    found = auroc(np.ones(50), np.zeros(50), confidence=0.95)
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.9 < found.low < 1.0


def test_the_threshold_errs_no_more_often_than_it_may():
    inside, outside = np.array([5.0, 3.0, 2.5, 1.0]), np.arange(200) / 100
    none = true_positive_rate(inside, outside, false_positive_rate=0.001, confidence=0.95)
    assert none.value == 0.75  # above 1.99
    two = true_positive_rate(inside, outside, false_positive_rate=0.01, confidence=0.95)
    assert two.value == 0.75  # above 1.97
    half = true_positive_rate(inside, outside, false_positive_rate=0.5, confidence=0.95)
    assert half.value == 1.0  # above 0.99


def test_a_score_at_the_threshold_is_not_found():
    found = true_positive_rate(
        np.zeros(10), np.zeros(10), false_positive_rate=0.01, confidence=0.95
    )
    assert found.value == 0.0


@pytest.mark.parametrize(
    ("found", "low", "high"), [(0, 0.0, 0.3085), (5, 0.1871, 0.8129), (10, 0.6915, 1.0)]
)
def test_the_interval_of_a_share_of_ten_is_clopper_and_pearsons(found, low, high):
    inside = np.array([1.0] * found + [-1.0] * (10 - found))
    share = true_positive_rate(inside, np.zeros(10), false_positive_rate=0.01, confidence=0.95)
    assert (share.low, share.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
