"""Epsilon against the literature, against an independent accountant, and against its own laws."""

import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy import (
    SampledGaussian,
    Spent,
    accounting,
    epsilon_by_rdp,
    epsilon_spent,
    noise_multiplier_for,
    require_reachable,
)


def steps(noise_multiplier, sample_rate, n):
    return SampledGaussian(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=n)


def epsilon(*history, delta=1e-5):
    return epsilon_spent(history, delta).epsilon


def gaussian_delta(eps, sigma):
    """Exact delta of the Gaussian mechanism (Balle and Wang 2018, theorem 8)."""

    def phi(x):
        return 0.5 * math.erfc(-x / math.sqrt(2.0))

    return phi(0.5 / sigma - eps * sigma) - math.exp(eps) * phi(-0.5 / sigma - eps * sigma)


class TestKnownAnswers:
    def test_abadi_2016_figure(self):
        # Abadi et al. 2016, section 3.2: q = 0.01, sigma = 4, 10,000 steps, delta = 1e-5 gives
        # epsilon 1.26 by the moments accountant. Both of ours are tighter, and not by much.
        spent = epsilon_spent([steps(4.0, 0.01, 10_000)], 1e-5)
        assert 0.9 < spent.prv < spent.rdp < 1.26

    def test_mnist_tutorial(self):
        # TensorFlow Privacy's MNIST tutorial: 60 epochs of batches of 256, noise 1.1, delta 1e-5.
        # RDP with Balle et al.'s conversion gives 2.60 (3.01 with the older conversion).
        spent = epsilon_spent([steps(1.1, 256 / 60_000, 60 * 60_000 // 256)], 1e-5)
        assert spent.rdp == pytest.approx(2.60, abs=0.01)
        assert 2.3 < spent.prv < 2.5

    @pytest.mark.parametrize("sigma", [0.8, 1.0, 3.0, 10.0])
    @pytest.mark.parametrize("n", [1, 9])
    def test_plain_gaussian_mechanism(self, sigma, n):
        # n steps of it are one with sigma / sqrt(n), whose delta is known in closed form.
        spent = epsilon_spent([steps(sigma, 1.0, n)], 1e-5)
        one = sigma / math.sqrt(n)
        assert gaussian_delta(spent.epsilon, one) <= 1e-5
        assert gaussian_delta(spent.prv, one) <= 1e-5
        assert gaussian_delta(spent.prv * 0.98 - 0.001, one) > 1e-5
        assert spent.prv < spent.rdp < spent.prv * 1.2

    @pytest.mark.parametrize(
        "history",
        [
            [(1.1, 256 / 60_000, 1000)],
            [(0.7, 0.1, 40)],
            [(8.0, 0.1, 500)],
            [(1.0, 0.05, 200), (2.0, 0.1, 100), (3.0, 1.0, 1)],
        ],
    )
    def test_dp_accounting_agrees(self, history):
        from dp_accounting import dp_event, pld, rdp

        plds, rdps = pld.PLDAccountant(), rdp.RdpAccountant()
        for sigma, rate, n in history:
            event = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(sigma))
            plds.compose(event, n)
            rdps.compose(event, n)
        spent = epsilon_spent([steps(*entry) for entry in history], 1e-5)
        exact = plds.get_epsilon(1e-5)
        assert exact * 0.999 <= spent.prv <= exact * 1.02
        assert spent.rdp == pytest.approx(rdps.get_epsilon(1e-5), rel=0.02)
        assert spent.rdp > spent.prv


class TestLaws:
    def test_nothing_done_costs_nothing(self):
        assert epsilon() == 0.0
        assert epsilon(steps(0.0, 0.1, 0), steps(1.0, 0.1, 0)) == 0.0

    def test_a_history_costs_what_its_parts_add_up_to(self):
        whole = epsilon(steps(1.0, 0.05, 100))
        assert epsilon(*[steps(1.0, 0.05, 10)] * 10) == whole
        assert epsilon(steps(1.0, 0.05, 30), steps(1.0, 0.05, 70)) == whole

    def test_order_plays_no_part(self):
        a, b = steps(1.0, 0.05, 50), steps(2.0, 0.2, 20)
        assert epsilon(a, b) == epsilon(b, a) > max(epsilon(a), epsilon(b))

    @settings(max_examples=5, deadline=None)
    @given(st.floats(0.7, 5.0), st.floats(0.005, 0.5), st.integers(1, 100))
    def test_grows_with_steps_and_rate_and_falls_with_noise(self, sigma, rate, n):
        base = epsilon(steps(sigma, rate, n))
        assert base < epsilon(steps(sigma, rate, 2 * n))
        assert base < epsilon(steps(sigma, rate * 1.5, n))
        assert base > epsilon(steps(sigma * 1.2, rate, n))
        assert base > epsilon(steps(sigma, rate, n), delta=1e-4)

    def test_the_larger_bound_counts(self):
        assert Spent(prv=1.0, rdp=2.0).epsilon == 2.0
        assert Spent(prv=2.0, rdp=1.0).epsilon == 2.0
        assert Spent(prv=math.nan, rdp=1.0).epsilon == 1.0

    @pytest.mark.parametrize(
        "history", [[], [steps(1.1, 0.02, 70)], [steps(1.1, 0.02, 70), steps(3.0, 1.0, 2)] * 2]
    )
    def test_rdp_can_be_asked_for_alone(self, history):
        assert epsilon_by_rdp(history, 1e-5) == epsilon_spent(history, 1e-5).rdp

    def test_larger_of_a_failed_prv_is_rdp(self):
        # Below 1e-10 the Fourier transform's rounding would decide, so PRV is not used.
        spent = epsilon_spent([steps(1.0, 0.1, 10)], 1e-12)
        assert math.isnan(spent.prv)
        assert spent.epsilon == spent.rdp > epsilon(steps(1.0, 0.1, 10))

    def test_hopelessly_little_noise_is_still_bounded_from_above(self):
        spent = epsilon_spent([steps(0.06, 0.05, 10)], 1e-5)
        assert spent.epsilon >= 700.0  # dp-accounting's PLD says 723


class TestSolving:
    @pytest.mark.parametrize(
        ("target", "rate", "n"),
        [(8.0, 0.08, 250), (1.0, 0.1, 500), (0.1, 0.05, 50), (3.0, 1.0, 100), (20.0, 0.2, 20)],
    )
    def test_spends_what_was_asked_for_and_not_more(self, target, rate, n):
        sigma = noise_multiplier_for(epsilon=target, delta=1e-5, sample_rate=rate, steps=n)
        assert target * 0.99 < epsilon(steps(sigma, rate, n)) <= target
        assert epsilon(steps(sigma * 0.998, rate, n)) > target

    def test_an_answer_is_kept(self):
        arguments = {"epsilon": 2.0, "delta": 1e-5, "sample_rate": 0.11, "steps": 37}
        assert noise_multiplier_for(**arguments) is noise_multiplier_for(**arguments)

    def test_no_steps_need_no_noise(self):
        assert noise_multiplier_for(epsilon=1.0, delta=1e-5, sample_rate=0.1, steps=0) == 0.0

    def test_generous_epsilon_still_gives_noise(self):
        sigma = noise_multiplier_for(epsilon=1e5, delta=1e-5, sample_rate=0.1, steps=1)
        assert sigma == 0.05

    def test_epsilon_out_of_reach_is_refused(self):
        with pytest.raises(PrivacyError, match="No noise is enough"):
            noise_multiplier_for(epsilon=1e-6, delta=1e-9, sample_rate=1.0, steps=10)


class TestReachability:
    """`require_reachable` refuses exactly what the search for the noise refuses."""

    @pytest.mark.parametrize(
        ("target", "delta", "n"), [(1e-6, 1e-9, 10), (0.003, 1e-5, 20), (8.0, 1e-5, 10**12)]
    )
    def test_epsilon_out_of_reach_is_refused(self, target, delta, n):
        for refuse in (require_reachable, noise_multiplier_for):
            with pytest.raises(PrivacyError, match="No noise is enough"):
                refuse(epsilon=target, delta=delta, sample_rate=1.0, steps=n)

    def test_epsilon_just_in_reach_is_not(self):
        arguments = {"epsilon": 0.011, "delta": 1e-5, "sample_rate": 1.0, "steps": 20}
        require_reachable(**arguments)
        assert noise_multiplier_for(**arguments) > 1000

    def test_an_ordinary_epsilon_is_not_solved_for(self, monkeypatch):
        monkeypatch.setattr(accounting, "noise_multiplier_for", None)
        require_reachable(epsilon=0.1, delta=1e-5, sample_rate=0.01, steps=100_000)

    @pytest.mark.parametrize("rate", [1.0, 0.1])
    @pytest.mark.parametrize("n", [1, 2355, 10**9])
    @pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-12])
    def test_the_closed_form_is_an_upper_bound(self, rate, n, delta):
        most = steps(accounting._MOST / 2, rate, n)
        bound = accounting._bound_under_most_noise(delta, n)
        assert epsilon(most, delta=delta) <= bound * (1 + 1e-9)

    @pytest.mark.parametrize("name", ["epsilon", "delta", "sample_rate"])
    def test_values_that_protect_nobody(self, name):
        good = {"epsilon": 1.0, "delta": 1e-5, "sample_rate": 0.1, "steps": 1}
        with pytest.raises(PrivacyError):
            require_reachable(**good | {name: 0.0})


BAD_POSITIVES = [math.nan, math.inf, -math.inf, -1.0, 0.0, sys.float_info.min / 2, -5e-324]


class TestRefusals:
    @pytest.mark.parametrize("value", BAD_POSITIVES)
    def test_values_that_protect_nobody(self, value):
        with pytest.raises(PrivacyError):
            steps(value, 0.1, 1)
        with pytest.raises(PrivacyError):
            steps(1.0, value, 1)
        with pytest.raises(PrivacyError):
            epsilon(steps(1.0, 0.1, 1), delta=value)
        good = {"epsilon": 1.0, "delta": 1e-5, "sample_rate": 0.1, "steps": 1}
        for name in ("epsilon", "delta", "sample_rate"):
            with pytest.raises(PrivacyError):
                noise_multiplier_for(**good | {name: value})

    @pytest.mark.parametrize("value", [-1, 1.5, math.nan, True, None])
    def test_steps_that_are_no_number_of_steps(self, value):
        with pytest.raises(PrivacyError):
            steps(1.0, 0.1, value)

    def test_probabilities_above_one(self):
        with pytest.raises(PrivacyError):
            steps(1.0, 1.001, 1)
        with pytest.raises(PrivacyError):
            epsilon(delta=1.0)

    def test_zero_noise_is_allowed_only_for_nothing(self):
        assert steps(0.0, 0.1, 0).steps == 0
        with pytest.raises(PrivacyError):
            steps(-0.0, 0.1, 1)

    def test_noise_too_small_for_any_bound(self):
        for bound in (epsilon_spent, epsilon_by_rdp):
            with pytest.raises(PrivacyError, match="cannot be bounded"):
                bound([steps(1e-200, 0.5, 1)], 1e-5)
