"""The lower bound is what its theorem says, and above the truth no more often than it may be."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from wardround_simulations.auditing.bounds import (
    best_guesses,
    chance,
    largest_bound,
    lower_bound,
)

EPSILON = 1.0
CONFIDENCE = 0.95


def test_without_delta_the_bound_is_clopper_and_pearsons_for_the_accuracy():
    for correct, made in ((60, 100), (95, 100), (100, 100), (480, 500)):
        accuracy = float(beta.ppf(1 - CONFIDENCE, correct, made - correct + 1))
        expected = max(0.0, math.log(accuracy / (1 - accuracy)))
        found = lower_bound(
            correct=correct, made=made, canaries=1000, delta=0.0, confidence=CONFIDENCE
        )
        assert found == pytest.approx(expected, abs=2e-4)


def theorem(correct: int, made: int, canaries: int, epsilon: float, delta: float) -> float:
    """Theorem 5.2 of Steinke, Nasr and Jagielski (2023), word for word."""

    def at_least(v: int) -> float:
        right = math.exp(epsilon) / (math.exp(epsilon) + 1)
        return sum(float(binom.pmf(i, made, right)) for i in range(max(v, 0), made + 1))

    slope = max((at_least(correct - i) - at_least(correct)) / i for i in range(1, canaries + 1))
    return min(1.0, at_least(correct) + 2 * canaries * delta * slope)


@given(
    made=st.integers(1, 30),
    share=st.floats(0, 1),
    epsilon=st.floats(0, 5),
    delta=st.sampled_from([0.0, 1e-5, 1e-3]),
)
def test_the_chance_is_that_of_the_theorem(made, share, epsilon, delta):
    correct = max(1, round(share * made))
    found = chance(correct=correct, made=made, canaries=40, epsilon=epsilon, delta=delta)
    assert found == pytest.approx(theorem(correct, made, 40, epsilon, delta), rel=1e-9, abs=1e-12)


def test_no_right_guess_is_no_evidence():
    assert chance(correct=0, made=10, canaries=10, epsilon=0.0, delta=1e-5) == 1.0
    assert lower_bound(correct=0, made=10, canaries=10, delta=1e-5, confidence=0.95) == 0.0


@given(correct=st.integers(1, 200), delta=st.floats(0, 1e-2))
def test_more_right_guesses_show_more_and_delta_takes_away(correct, delta):
    def bound(right: int, delta: float) -> float:
        return lower_bound(correct=right, made=200, canaries=400, delta=delta, confidence=0.95)

    assert bound(correct - 1, delta) <= bound(correct, delta) <= bound(correct, 0.0)


def responses(rng: np.random.Generator, canaries: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and coins of a randomised response, of which epsilon is exactly known."""
    included = rng.random(canaries) < 0.5
    truthful = rng.random(canaries) < 1 / (1 + math.exp(-EPSILON))
    return np.where(truthful, included, ~included) + 0.1 * rng.random(canaries), included


def test_of_a_randomised_response_the_bound_is_seldom_above_the_truth_and_often_near_it():
    """No mechanism is told more easily: a bound that is too bold has nowhere to hide."""
    rng = np.random.default_rng(1)
    bounds = np.array(
        [
            best_guesses(*responses(rng, 1000), delta=0.0, confidence=CONFIDENCE).bound
            for _ in range(300)
        ]
    )
    # Binomial(300, 0.05) passes 27 with a chance of 1 in 1,000.
    assert (bounds > EPSILON).sum() <= 27
    assert np.median(bounds) > 0.75 * EPSILON


def test_of_a_single_set_of_guesses_the_bound_errs_as_often_as_it_says():
    rng = np.random.default_rng(2)
    right = rng.binomial(500, 1 / (1 + math.exp(-EPSILON)), size=2000)
    bounds = [
        lower_bound(correct=int(v), made=500, canaries=500, delta=0.0, confidence=CONFIDENCE)
        for v in right
    ]
    above = np.mean(np.array(bounds) > EPSILON)
    assert 0.03 < above < 0.065


def test_scores_that_say_nothing_show_nothing():
    rng = np.random.default_rng(3)
    bounds = [
        best_guesses(
            rng.random(400), rng.random(400) < 0.5, delta=1e-5, confidence=CONFIDENCE
        ).bound
        for _ in range(200)
    ]
    assert np.mean(np.array(bounds) > 0.0) <= 0.07


def test_equal_scores_are_not_told_apart():
    included = np.tile([True, False], 200)
    found = best_guesses(np.zeros(400), included, delta=1e-5, confidence=CONFIDENCE)
    assert found.bound == 0.0


def test_perfect_scores_reach_the_largest_bound_and_no_more():
    included = np.random.default_rng(4).permutation(np.tile([True, False], 500))
    found = best_guesses(included.astype(float), included, delta=1e-5, confidence=CONFIDENCE)
    assert found.correct == found.made
    assert found.bound == largest_bound(1000, delta=1e-5, confidence=CONFIDENCE)


@pytest.mark.parametrize("canaries", [20, 21, 100, 2000])
def test_the_largest_bound_grows_with_the_canaries_and_stays_below_their_logarithm(canaries):
    most = largest_bound(canaries, delta=1e-5, confidence=CONFIDENCE)
    assert 0.0 < most < math.log(canaries / 3)
