"""The account refuses what was not planned, and keeps what was spent."""

import math

import pytest
from flwr.app import RecordDict

from wardround_client.account import Account, plan, require_plan
from wardround_shared.errors import BudgetError, PrivacyError
from wardround_shared.privacy.accounting import epsilon_spent
from wardround_shared.study import Study, load_study
from wardround_simulations.cli import find_study


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study(
        find_study("heart-disease"),
        ["training.rounds=3", "training.batch-size=16", "training.local-epochs=2"],
    )


def test_the_whole_plan_costs_at_most_the_studys_epsilon(study):
    solved = plan(study, 100)
    assert solved.sample_rate == pytest.approx(0.16)
    assert solved.steps_per_round == 2 * math.ceil(100 / 16)
    assert solved.planned_steps == 3 * solved.steps_per_round
    account = Account(RecordDict(), study, 100)
    for _ in range(3):
        account.spend_round()
    spent = epsilon_spent([account.spent], study.privacy.delta)
    assert 0.98 * study.privacy.epsilon < spent.epsilon <= study.privacy.epsilon


def test_a_cohort_smaller_than_a_batch_is_in_every_step(study):
    solved = plan(study, 5)
    assert solved.sample_rate == 1.0
    assert solved.steps_per_round == 2


def test_a_round_beyond_the_plan_is_refused_and_costs_nothing(study):
    state = RecordDict()
    for _ in range(3):
        Account(state, study, 100).spend_round()
    before = Account(state, study, 100).spent
    with pytest.raises(BudgetError, match="budget is spent"):
        Account(state, study, 100).spend_round()
    assert Account(state, study, 100).spent == before


def test_steps_are_taken_before_they_are_trained(study):
    state = RecordDict()
    Account(state, study, 100).spend_round()  # and the training breaks off here
    assert Account(state, study, 100).spent.steps > 0


def test_a_changed_cohort_is_refused(study):
    state = RecordDict()
    Account(state, study, 100)
    with pytest.raises(PrivacyError, match="cohort has changed"):
        Account(state, study, 101)


@pytest.mark.parametrize("override", ["privacy.epsilon=0.003", "training.local-epochs=10000000000"])
def test_a_study_that_no_noise_fits_is_refused_without_an_account(override):
    study = load_study(find_study("heart-disease"), [override, "training.rounds=1000"])
    with pytest.raises(PrivacyError, match=r"raise privacy\.epsilon or plan fewer rounds"):
        require_plan(study, 100)
