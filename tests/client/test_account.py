"""The account refuses what was not planned, and what the ledger has no room for."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import RecordDict

from wardround_client.account import Account, plan, require_plan, units_of
from wardround_client.ledger import Ledger
from wardround_client.policy import Policy
from wardround_shared.errors import BudgetError, PrivacyError, ProtocolError
from wardround_shared.messages import Header
from wardround_shared.privacy.accounting import epsilon_spent
from wardround_shared.study import Study, load_study
from wardround_simulations.options import find_study

OVERRIDES = ("training.rounds=3", "training.batch-size=16", "training.local-epochs=2")


FINE_TUNED = "personal.fine-tune-epochs=5"
DITTO = "personal.ditto=0.1"


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study(find_study("heart-disease"), OVERRIDES)


def cohort_of(patients: list[int], train: int | None = None):
    """A cohort, as far as an account looks at it."""
    return SimpleNamespace(
        patients=np.array(patients, dtype=np.int64),
        train=np.arange(len(patients) if train is None else train),
    )


COHORT = cohort_of(list(range(100)))


class Site:
    """A site's ledger, and accounts on it."""

    def __init__(self, folder, *, epsilon=8.0):
        self.home = folder
        self.ledger = Ledger.create(folder, site="north", durable=False)
        self.policy = Policy.of(epsilon=epsilon, delta=1e-5)
        self.state = RecordDict()

    def account(self, study, cohort=COHORT, data_set="clinic"):
        return Account(
            study=study,
            cohort=cohort,
            ledger=self.ledger,
            policy=self.policy,
            data_set=data_set,
        )

    def spent(self):
        return self.ledger.history("clinic")


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(tmp_path / "north")


def header(study, number, run="run-1"):
    return Header(study_id=study.study_id, run=run, round=number)


class TestPlan:
    def test_the_whole_plan_costs_at_most_the_studys_epsilon(self, study):
        solved = plan(study, 100)
        assert solved.units == 100
        assert solved.sample_rate == pytest.approx(0.16)
        assert solved.steps_per_round == 2 * math.ceil(100 / 16)
        assert solved.planned_steps == 3 * solved.steps_per_round
        spent = epsilon_spent([solved.round_cost] * 3, study.privacy.delta)
        assert spent == epsilon_spent([solved.cost_after(0)], study.privacy.delta)
        assert 0.98 * study.privacy.epsilon < spent.epsilon <= study.privacy.epsilon

    def test_fewer_units_than_a_batch_are_in_every_step(self, study):
        solved = plan(study, 5)
        assert solved.sample_rate == 1.0
        assert solved.steps_per_round == 2

    def test_the_unit_is_what_is_counted(self, study):
        cohort = cohort_of([5, 5, 5, 9, 9, 2, 7], train=5)
        assert units_of(study, cohort) == 2
        by_record = load_study(find_study("heart-disease"), [*OVERRIDES, "privacy.unit=record"])
        assert units_of(by_record, cohort) == 5

    def test_fine_tuning_is_in_the_plan_from_the_beginning(self, study):
        tuned = load_study(find_study("heart-disease"), [*OVERRIDES, FINE_TUNED])
        solved, without = plan(tuned, 100), plan(study, 100)
        assert solved.fine_tune_steps == 5 * math.ceil(100 / 16)
        assert solved.planned_steps == without.planned_steps + solved.fine_tune_steps
        assert solved.noise_multiplier > without.noise_multiplier
        costs = [solved.round_cost] * 3 + [solved.fine_tune_cost]
        assert 0.98 * 8.0 < epsilon_spent(costs, tuned.privacy.delta).epsilon <= 8.0

    def test_a_model_of_the_sites_own_takes_as_many_steps_again_in_each_round(self, study):
        beside = load_study(find_study("heart-disease"), [*OVERRIDES, DITTO])
        solved, without = plan(beside, 100), plan(study, 100)
        assert solved.own_steps_per_round == without.steps_per_round
        assert solved.steps_per_round == 2 * without.steps_per_round
        assert solved.noise_multiplier > without.noise_multiplier
        spent = epsilon_spent([solved.round_cost] * 3, beside.privacy.delta)
        assert 0.98 * 8.0 < spent.epsilon <= 8.0

    def test_a_round_pays_for_both_models_and_none_comes_after_the_last(self, site):
        beside = load_study(find_study("heart-disease"), [*OVERRIDES, DITTO])
        account = site.account(beside)
        for number in (1, 2, 3):
            reservation = account.reserve(site.state, header(beside, number))
        assert reservation.steps == reservation.own_steps == reservation.plan.own_steps_per_round
        assert sum(cost.steps for cost in site.spent()) == reservation.plan.planned_steps
        with pytest.raises(BudgetError, match="is spent"):
            account.reserve(site.state, header(beside, 4))

    @pytest.mark.parametrize(
        "override", ["privacy.epsilon=0.003", "training.local-epochs=10000000000"]
    )
    def test_a_study_that_no_noise_fits_is_refused_without_an_account(self, override):
        study = load_study(find_study("heart-disease"), [override, "training.rounds=1000"])
        with pytest.raises(PrivacyError, match=r"raise privacy\.epsilon or plan fewer rounds"):
            require_plan(study, 100)


class TestFineTuning:
    @pytest.fixture
    def study(self):
        return load_study(find_study("heart-disease"), [*OVERRIDES, FINE_TUNED])

    def test_it_is_paid_for_once_and_nothing_after_it(self, study, site):
        account = site.account(study)
        for number in (1, 2, 3, 4):
            reservation = account.reserve(site.state, header(study, number))
            account.commit(reservation)
        assert reservation.steps == reservation.plan.fine_tune_steps
        assert sum(cost.steps for cost in site.spent()) == reservation.plan.planned_steps
        with pytest.raises(BudgetError, match="is spent"):
            account.reserve(site.state, header(study, 5))
        with pytest.raises((BudgetError, ProtocolError)):
            account.reserve(site.state, header(study, 4))
        account.admit(site.state, "run-1")  # nothing is left to be paid for

    def test_a_cap_without_room_for_it_is_told_at_the_start(self, study, tmp_path):
        rounds = load_study(find_study("heart-disease"), OVERRIDES)
        whole = plan(study, 100)
        alone = epsilon_spent([whole.round_cost] * rounds.training.rounds, study.privacy.delta)
        site = Site(tmp_path / "north", epsilon=(alone.epsilon + study.privacy.epsilon) / 2)
        with pytest.raises(BudgetError):
            site.account(study).admit(site.state, "run-1")

    def test_a_site_that_missed_rounds_still_has_room_to_begin_again(self, study, site):
        account = site.account(study)
        for number in (1, 4):
            account.reserve(site.state, header(study, number))
        account.admit(site.state, "run-1")


class TestLedger:
    def test_a_plan_that_does_not_fit_is_refused_before_the_first_round(self, study, tmp_path):
        site = Site(tmp_path / "north", epsilon=7.0)
        with pytest.raises(BudgetError, match="allows epsilon 7 "):
            site.account(study).admit(site.state, "run-1")
        assert not site.spent()

    def test_a_second_study_gets_what_the_first_one_left(self, study, tmp_path):
        site = Site(tmp_path / "north", epsilon=9.0)
        site.account(study).admit(site.state, "run-1")
        for number in (1, 2, 3):
            site.account(study).reserve(site.state, header(study, number))
        small = load_study(find_study("heart-disease"), [*OVERRIDES, "privacy.epsilon=0.2"])
        site.account(small).admit(RecordDict(), "run-2")
        with pytest.raises(BudgetError, match="left"):
            site.account(study).admit(RecordDict(), "run-2")

    def test_a_round_is_paid_for_before_it_is_trained(self, study, site):
        reservation = site.account(study).reserve(site.state, header(study, 1))
        # And the training breaks off here.
        (cost,) = site.spent()
        assert cost == reservation.plan.round_cost
        (entry,) = site.ledger.entries()
        assert entry.state == "reserved"
        assert (entry.purpose.run, entry.purpose.round) == ("run-1", 1)
        assert entry.purpose.unit == "record", "this study names no patients"
        site.account(study).commit(reservation)
        assert [entry.state for entry in site.ledger.entries()] == ["committed"]

    def test_a_round_is_paid_for_once_even_if_the_site_has_forgotten_it(self, study, site):
        site.account(study).reserve(site.state, header(study, 1))
        with pytest.raises(ProtocolError, match="round 1"):
            site.account(study).reserve(RecordDict(), header(study, 1))
        assert len(site.spent()) == 1

    @pytest.mark.parametrize("number", [0, 4, 1000])
    def test_a_round_beyond_the_plan_is_refused_and_costs_nothing(self, study, site, number):
        with pytest.raises(BudgetError, match="new study"):
            site.account(study).reserve(site.state, header(study, number))
        assert not site.spent()

    def test_another_run_of_the_same_study_is_paid_for_again(self, study, site):
        for number in (1, 2, 3):
            site.account(study).reserve(site.state, header(study, number))
        with pytest.raises(BudgetError, match="left"):
            site.account(study).reserve(site.state, header(study, 1, run="run-2"))
        assert len(site.spent()) == 3

    def test_what_a_run_has_paid_for_is_not_asked_for_again(self, study, site):
        for number in (1, 2):
            site.account(study).reserve(site.state, header(study, number))
        site.account(study).admit(RecordDict(), "run-1")
        with pytest.raises(BudgetError):
            site.account(study).admit(RecordDict(), "run-2")

    def test_without_a_patient_key_the_account_is_one_of_records(self, site):
        unknown = load_study(find_study("pneumonia"), ["training.rounds=2"])
        site.account(unknown).reserve(site.state, header(unknown, 1))
        (entry,) = site.ledger.entries()
        assert entry.purpose.unit == "record"
        known = load_study(find_study("phantom"), ["training.rounds=2"])
        with pytest.raises(PrivacyError, match="per record"):
            site.account(known).reserve(RecordDict(), header(known, 1))

    def test_a_changed_cohort_is_refused(self, study, site):
        site.account(study).admit(site.state, "run-1")
        with pytest.raises(PrivacyError, match="cohort has changed"):
            site.account(study, cohort_of(list(range(101)))).reserve(site.state, header(study, 1))

    def test_a_damaged_plan_is_refused(self, study, site):
        site.account(study).admit(site.state, "run-1")
        for record in site.state.values():
            del record["noise-multiplier"]
        with pytest.raises(PrivacyError, match="damaged"):
            site.account(study).reserve(site.state, header(study, 1))
