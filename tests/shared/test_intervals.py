"""Intervals against known values, and against what drawing again and again gives."""

import numpy as np
import pytest

from wardround_shared.evaluation import count, counts_length, metrics
from wardround_shared.intervals import of_area, of_share, resampled


def test_a_share_is_wilsons():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I.
    assert of_share(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert of_share(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert of_share(0, 0) is None


def test_an_area_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, hits = 0.8556, 0  # Phi(1.5 / sqrt 2)
    for _ in range(400):
        ill, well = rng.normal(1.5, 1, 25), rng.normal(0, 1, 40)
        low, high = of_area(float((ill[:, None] > well).mean()), 25, 40)
        hits += low <= truth <= high
    assert 0.92 <= hits / 400 <= 0.99


def test_a_perfect_area_of_few_examples_is_not_certain():
    low, high = of_area(1.0, 4, 4)
    assert high == 1.0
    assert 0.3 < low < 0.8
    assert of_area(1.0, 400, 400)[0] > 0.98


@pytest.mark.parametrize("area", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_an_area_is_inside_its_interval_and_that_inside_zero_and_one(area):
    low, high = of_area(area, 12, 30)
    assert 0.0 <= low <= area <= high <= 1.0


def test_an_area_without_examples_of_both_has_no_interval():
    assert of_area(None, 3, 3) is None
    assert of_area(0.5, 0, 3) is None


def test_resampled_accuracy_is_about_wilsons():
    rng = np.random.default_rng(1)
    p = rng.random(200)
    label = (rng.random(200) < p).astype(int)
    counts = count(np.stack([1 - p, p], axis=1), label)
    pieces = [slice(2, 6), slice(6, counts_length(2))]
    found = resampled(lambda c: metrics(c, ("a", "b")), counts, pieces)["accuracy"]
    hits = counts[2] + counts[5]
    assert found == pytest.approx(of_share(hits, 200), abs=0.02)
    assert resampled(lambda _: {"never": None}, counts, pieces) == {}
