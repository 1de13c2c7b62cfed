"""What a server can make a site do twice: nothing that costs privacy."""

import numpy as np
import pytest
import torch
from flwr.app import RecordDict

from wardround_client import site as site_module
from wardround_client.account import Account
from wardround_client.cohort import build_cohorts
from wardround_client.journal import Journal
from wardround_client.ledger import Ledger
from wardround_client.policy import Policy
from wardround_client.site import Request, Site
from wardround_client.workplace import Models, Workplace
from wardround_shared.errors import PrivacyError, ProtocolError
from wardround_shared.messages import GlobalModel, Header, read_update
from wardround_shared.models import build_model, flatten
from wardround_shared.preprocessing import Recipe
from wardround_shared.privacy.noise import InjectedNoise
from wardround_shared.study import load_study


class Hospital:
    """The site `north` of the small study, and a model for it to train."""

    def __init__(self, study_file, data, folder, *overrides):
        self.study = load_study(study_file, overrides)
        cohorts = build_cohorts(self.study, data, cache=folder / "cache", partition=None)
        self.cohort = cohorts.cohorts[0]
        workplace = Workplace(
            study=self.study,
            device=torch.device("cpu"),
            seed=0,
            noise_of=lambda _site, number: InjectedNoise(number),
        )
        self.journal = folder / "north"
        self.ledger = Ledger.create(folder / "home", site="north", durable=False)
        account = Account(
            study=self.study,
            cohort=self.cohort,
            ledger=self.ledger,
            policy=Policy.of(epsilon=8.0, delta=1e-5),
            data_set="clinic",
        )
        self.site = Site(
            cohort=self.cohort,
            workplace=workplace,
            models=Models(workplace),
            journal=Journal(self.journal),
            account=account if self.study.privacy.private else None,
        )
        self.model = self._model()
        self.state = RecordDict()

    def _model(self):
        recipe, arrays, fitted = Recipe(self.study), self.cohort.arrays, ()
        for _ in recipe.needs_fit:
            fitted = (*fitted, recipe.fit(recipe.statistics(arrays, fitted), fitted))
        shapes = recipe.output_shapes([array.shape[1:] for array in arrays])
        module = build_model(self.study.model, shapes, 2)
        return GlobalModel(
            parameters=flatten(module).numpy(), fitted=fitted, class_counts=np.ones(2)
        )

    def train(self, number, run="run-1"):
        header = Header(study_id=self.study.study_id, run=run, round=number)
        request = Request(header=header, secure={}, digest=b"")
        return self.site.train(request, self.model, self.state)

    def spent(self):
        return sum(cost.steps for cost in self.ledger.history("clinic"))


@pytest.fixture(params=["dp-sgd", "none"])
def hospital(request, study_file, hospitals, tmp_path):
    override = f"privacy.mechanism={request.param}"
    return Hospital(study_file, hospitals, tmp_path, override)


@pytest.fixture
def trained(monkeypatch):
    """The rounds that reach the training loop."""
    rounds = []
    train = site_module.train

    def listening(module, examples, index, settings):
        rounds.append(settings.round)
        return train(module, examples, index, settings)

    monkeypatch.setattr(site_module, "train", listening)
    return rounds


@pytest.mark.parametrize("attack", [{"number": 2}, {"number": 1}, {"number": 0}, {"number": -1}])
def test_a_round_is_not_trained_again_and_no_earlier_one(hospital, trained, attack):
    for number in (1, 2):
        assert read_update(hospital.train(number)).weight == len(hospital.cohort.train)
    with pytest.raises(ProtocolError, match=r"each round is trained once|in rounds 1 to 3"):
        hospital.train(**attack)
    assert trained == [1, 2]
    assert len(Journal.read(hospital.journal)) == 2


def test_the_name_of_another_run_does_not_open_a_round_again(hospital, trained):
    hospital.train(1)
    with pytest.raises(ProtocolError, match="each round is trained once"):
        hospital.train(1, run="run-2")
    assert trained == [1]


def test_a_repeated_request_costs_no_privacy(study_file, hospitals, tmp_path):
    hospital = Hospital(study_file, hospitals, tmp_path)
    hospital.train(1)
    once = hospital.spent()
    with pytest.raises(ProtocolError):
        hospital.train(1)
    assert hospital.spent() == once > 0
    hospital.train(2)
    assert hospital.spent() == 2 * once


def test_a_site_that_has_forgotten_a_round_trains_it_no_second_time(
    study_file, hospitals, tmp_path, trained
):
    hospital = Hospital(study_file, hospitals, tmp_path)
    hospital.train(1)
    hospital.state = RecordDict()  # as after a crash: the answer never came back
    with pytest.raises(ProtocolError, match="round 1"):
        hospital.train(1)
    assert trained == [1]


def test_a_training_that_raises_is_paid_for(study_file, hospitals, tmp_path, monkeypatch):
    hospital = Hospital(study_file, hospitals, tmp_path)

    def failing(*_):
        raise MemoryError

    monkeypatch.setattr(site_module, "train", failing)
    with pytest.raises(MemoryError):
        hospital.train(1)
    assert [entry.state for entry in hospital.ledger.entries()] == ["committed"]
    assert hospital.spent() > 0


def test_no_private_study_without_a_ledger(study_file, hospitals, tmp_path, trained):
    hospital = Hospital(study_file, hospitals, tmp_path)
    hospital.site._account = None
    for ask in (lambda: hospital.site.greet("run-1", RecordDict()), lambda: hospital.train(1)):
        with pytest.raises(PrivacyError, match="no privacy ledger"):
            ask()
    assert trained == []


def test_a_round_may_be_left_out(hospital, trained):
    hospital.train(1)
    hospital.train(3)
    assert trained == [1, 3]


def test_a_model_that_does_not_fit_uses_no_round_up(hospital, trained):
    right = hospital.model
    hospital.model = GlobalModel(
        parameters=right.parameters[1:], fitted=right.fitted, class_counts=right.class_counts
    )
    with pytest.raises(ProtocolError, match="parameters"):
        hospital.train(1)
    hospital.model = right
    hospital.train(1)
    assert trained == [1]


def test_a_training_that_raises_has_used_its_round_up(hospital, monkeypatch):
    def failing(*_):
        raise MemoryError

    monkeypatch.setattr(site_module, "train", failing)
    with pytest.raises(MemoryError):
        hospital.train(1)
    with pytest.raises(ProtocolError, match="each round is trained once"):
        hospital.train(1)
