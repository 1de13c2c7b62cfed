"""Curves from summed counts against a fit on the examples themselves."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from wardround_shared.calibration import FEWEST, calibrate, fit_curve
from wardround_shared.evaluation import BINS, count, expected_calibration_error, scores


def two(p):
    return np.stack([1 - p, p], axis=1)


def drawn(n, *, slope, intercept, seed=0):
    """Probabilities of a model whose log-odds are wrong by a line, and the labels."""
    rng = np.random.default_rng(seed)
    score = rng.normal(0, 2, n)
    label = (rng.random(n) < 1 / (1 + np.exp(-(slope * score + intercept)))).astype(int)
    return two(1 / (1 + np.exp(-score))), label


def test_the_curve_is_that_of_a_logistic_regression_on_the_examples():
    p, label = drawn(3000, slope=0.5, intercept=1.0)
    (curve,) = calibrate(count(p, label), ("a", "b")).curves
    exact = LogisticRegression(C=1e9).fit(scores(p, 1)[:, None], label)
    assert curve.slope == pytest.approx(float(exact.coef_[0, 0]), abs=0.01)
    assert curve.intercept == pytest.approx(float(exact.intercept_[0]), abs=0.01)


def test_counts_that_are_summed_over_sites_give_the_curve_of_all():
    p, label = drawn(2000, slope=2.0, intercept=-0.5)
    whole = calibrate(count(p, label), ("a", "b"))
    parts = count(p[:700], label[:700]) + count(p[700:], label[700:])
    assert calibrate(parts, ("a", "b")).curves[0].slope == pytest.approx(whole.curves[0].slope)


@pytest.mark.parametrize("slope", [0.3, 3.0])
def test_calibrated_probabilities_are_nearer_to_the_truth_on_new_examples(slope):
    classes = ("a", "b")
    fitted = calibrate(count(*drawn(4000, slope=slope, intercept=0.7)), classes)
    p, label = drawn(20000, slope=slope, intercept=0.7, seed=1)
    before = expected_calibration_error(count(p, label), 2, 1)
    after = expected_calibration_error(count(fitted(p), label), 2, 1)
    assert after < 0.03 < before


def test_several_classes_sum_to_one_and_keep_their_order_when_they_were_right():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1.5, (6000, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = (p.cumsum(axis=1) < rng.random((6000, 1))).sum(axis=1)
    calibrated = calibrate(count(p, label), ("a", "b", "c"))(p)
    assert np.allclose(calibrated.sum(axis=1), 1.0)
    assert np.abs(calibrated - p).mean() < 0.03


def test_too_few_examples_give_no_curve_and_a_reason():
    p, label = drawn(400, slope=1.0, intercept=0.0)
    few = np.flatnonzero(label == 1)[: FEWEST - 1]
    kept = np.concatenate([few, np.flatnonzero(label == 0)])
    found = calibrate(count(p[kept], label[kept]), ("a", "b"))
    assert not found.curves
    assert f"fewer than {FEWEST}" in found.fault
    assert str(FEWEST - 1) not in found.fault


def test_a_model_that_is_wrong_way_round_is_not_turned():
    p, label = drawn(1000, slope=-1.0, intercept=0.0)
    found = calibrate(count(p, label), ("a", "b"))
    assert not found.curves
    assert "does not go with" in found.fault


def test_perfect_separation_gives_a_finite_curve():
    positive, negative = np.zeros(BINS), np.zeros(BINS)
    positive[600:640] = 1.0
    negative[400:440] = 1.0
    curve = fit_curve(positive, negative)
    assert curve is not None
    assert 0 < curve.slope < 50
    ends = curve(np.array([-12.0, 12.0]))
    assert 0 < ends[0] < 0.05
    assert 0.95 < ends[1] <= 1
