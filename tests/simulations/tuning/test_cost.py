import pytest

from wardround_shared.privacy.accounting import SampledGaussian, epsilon_by_rdp
from wardround_simulations.tuning.cost import cost_of

CHEAP = SampledGaussian(noise_multiplier=4.0, sample_rate=0.5, steps=10)
DEAR = SampledGaussian(noise_multiplier=1.0, sample_rate=0.5, steps=10)


def test_a_patient_pays_for_every_training_but_those_that_leave_out_the_own_fold():
    """Three trials on two folds at one site: each patient is in three of the six trainings."""
    spent = [(fold, {"north": CHEAP}) for _ in range(3) for fold in range(2)]
    cost = cost_of(spent, 1e-5)
    assert cost.trainings == 3
    assert cost.epsilon == pytest.approx(epsilon_by_rdp([CHEAP] * 3, 1e-5))


def test_the_site_where_it_is_most_counts():
    spent = [(fold, {"north": CHEAP, "south": DEAR}) for fold in range(2)]
    assert cost_of(spent, 1e-5).epsilon == pytest.approx(epsilon_by_rdp([DEAR], 1e-5))


def test_the_fold_that_costs_most_counts():
    spent = [(0, {"north": DEAR}), (1, {"north": CHEAP}), (2, {"north": CHEAP})]
    # A patient of fold 1 or 2 is in the training that leaves out fold 0.
    assert cost_of(spent, 1e-5).epsilon == pytest.approx(epsilon_by_rdp([DEAR, CHEAP], 1e-5))


def test_without_privacy_there_is_no_cost():
    assert cost_of([(0, {}), (1, {})], 1e-5) is None
