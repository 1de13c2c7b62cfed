"""Scaffold against known answers, and in a federation: what drifts, what is sent and masked."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from federations import Silent, arrays_of, settings_of
from torch import nn

from wardround_client import site as site_module
from wardround_client.control import ControlPart
from wardround_client.personal_files import PersonalFiles
from wardround_client.training import Examples, LocalTraining, train
from wardround_server.control import Control
from wardround_server.optimisers import FedAvg
from wardround_shared import messages
from wardround_shared.errors import UnsupportedError
from wardround_shared.messages import GlobalModel, Header
from wardround_shared.models import flatten, unflatten_
from wardround_shared.privacy.noise import InjectedNoise
from wardround_shared.steps import Steps
from wardround_shared.study import Study, load_study
from wardround_shared.tasks import Task
from wardround_simulations.federation import simulate
from wardround_simulations.options import find_study

SCALE = 2.0**40


class Squares(Task):
    """A task whose loss is half the squared distance."""

    def loss(self, outputs, targets, weights=None):
        return 0.5 * (outputs - targets).square().sum(dim=1)


@dataclass
class Bowl:
    """A site whose loss is curvature / 2 (x - minimum)^2, over so many equal examples."""

    curvature: float
    minimum: float
    size: int
    part: ControlPart | None = None

    def __post_init__(self):
        inputs = torch.full((self.size, 1), self.curvature**0.5)
        self.examples = Examples(
            parts=(inputs,), targets=inputs * self.minimum, patients=torch.arange(self.size)
        )


def bowls():
    """Two sites that draw to other places, and not equally strongly."""
    return [Bowl(0.2, -3.0, 4), Bowl(1.6, 5.0, 8)]


def best(sites):
    """Where the mean loss over all examples is least."""
    weights = [site.size * site.curvature for site in sites]
    return sum(w * s.minimum for w, s in zip(weights, sites, strict=True)) / sum(weights)


def study_of(strategy: str, *, schedule="constant", rounds=200) -> Study:
    return Study.model_validate(
        {
            "study": {"name": "bowls", "task": "tabular-classification", "classes": ["a", "b"]},
            "data": {
                "source": "table",
                "table": ["t.csv"],
                "label": {"column": "y"},
                "features": [{"column": "a"}],
            },
            "preprocessing": {"steps": []},
            "model": {"name": "mlp", "hidden": []},
            "training": {
                "rounds": rounds,
                "local-steps": 10,
                "batch-size": 4,
                "learning-rate": 0.1,
                "learning-rate-schedule": schedule,
                "strategy": strategy,
            },
            "privacy": {"mechanism": "none"},
            "aggregation": {"secure": False},
        }
    )


def trained(study, sites, folder, *, there=lambda number, place: True, lost=()):
    """The model after all rounds; `lost` are updates (round, place) that no sum has in it."""
    scaffold = study.training.strategy == "scaffold"
    module = nn.Linear(1, 1, bias=False)
    model, control, optimiser = np.zeros(1, np.float32), Control(), FedAvg(1.0)
    for place, site in enumerate(sites):
        files = PersonalFiles(
            folder=folder / str(place) / "personal", run="run-1", study_id=study.study_id
        )
        site.part = ControlPart(study, site=str(place), files=files)
    for number in range(1, study.training.rounds + 1):
        header = Header(study_id=study.study_id, run="run-1", round=number)
        sent = GlobalModel(
            parameters=model,
            fitted=(),
            class_counts=np.zeros(2),
            control=control.values(1) if scaffold else None,
            counted=dict(control.counted),
        )
        total, weight, counted = 0.0, 0, []
        for place, site in enumerate(sites):
            if not there(number, place):
                continue
            unflatten_(module, torch.from_numpy(model.copy()))
            drift = site.part.begin(header, sent)
            settings = LocalTraining(
                task=Squares(),
                training=study.training,
                round=number,
                seed=number,
                class_counts=np.zeros(2),
                augmentation=None,
                protection=None,
                correction=None if drift is None else torch.from_numpy(drift.correction),
            )
            delta = train(module, site.examples, torch.arange(site.size), settings)
            if drift is not None:
                site.part.keep(drift, delta, header)
            if (number, place) not in lost:
                total, weight = total + float(delta[0]) * site.size, weight + site.size
                counted.append(str(place))
        summed = Steps(counts=np.array([round(total * SCALE)]), divisors=(SCALE,))
        if scaffold:
            moved = study.training.local_steps * study.training.rate_in(number)
            control.add(summed, weight=weight, moved=moved, number=number, sites=counted)
        model = optimiser.step(model, summed / weight)
    return float(model[0]), control


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_where_sites_drift_scaffold_ends_at_the_best_model_and_fedavg_does_not(tmp_path, schedule):
    sites = bowls()
    scaffold, _ = trained(study_of("scaffold", schedule=schedule), sites, tmp_path)
    fedavg, _ = trained(study_of("fedavg"), bowls(), tmp_path)
    assert scaffold == pytest.approx(best(sites), abs=1e-3)
    assert abs(fedavg - best(sites)) > 0.3


def test_fedavg_ends_where_the_theory_says(tmp_path):
    """The fixed point of K steps on each quadratic, in closed form: what is above is drift."""
    sites, weights, moves = bowls(), [], []
    for site in sites:
        kept = (1 - 0.1 * site.curvature) ** 10
        weights.append(site.size * (1 - kept))
        moves.append(site.size * (1 - kept) * site.minimum)
    fedavg, _ = trained(study_of("fedavg"), sites, tmp_path)
    assert fedavg == pytest.approx(sum(moves) / sum(weights), abs=1e-3)


def test_the_server_knows_the_sum_of_what_it_never_gets(tmp_path):
    """C follows the sites' own control variates, whoever takes part, and whatever was lost."""
    sites, study = bowls(), study_of("scaffold", rounds=9)
    lost = {(3, 0), (4, 0), (7, 1)}
    there = lambda number, place: (number, place) not in {(1, 1), (5, 0), (9, 1)}  # noqa: E731
    _, control = trained(study, sites, tmp_path, there=there, lost=lost)
    assert control.counted == {"0": 9, "1": 8}
    own = [
        site.size * float(site.part._files.of(control.counted[str(place)])[0])
        for place, site in enumerate(sites)
    ]
    assert control.state()["sum"][0] == pytest.approx(sum(own), rel=1e-4)
    assert control.state()["weight"] == [12.0]


def test_sites_that_come_and_go_and_updates_that_are_lost_do_not_move_where_it_ends(tmp_path):
    sites, random = bowls(), np.random.default_rng(4)
    draws = random.random((2, 1001, 2))
    draws[:, :, 1] = 1  # the one is always there
    lost = {(number, 0) for number in range(1001) if draws[0, number, 0] < 0.3}
    lost |= {(2, 0), (3, 0)}  # when they are still large
    found, _ = trained(
        study_of("scaffold", rounds=600),
        sites,
        tmp_path,
        there=lambda number, place: draws[1, number, place] > 0.3,
        lost=lost,
    )
    assert found == pytest.approx(best(sites), abs=0.02)


# --- a federation ---------------------------------------------------------------------------------


SCAFFOLD = (
    "training.strategy=scaffold",
    "training.local-steps=6",
    "training.momentum=0",
    "training.rounds=4",
)
PLAIN = "privacy.mechanism=none"


@pytest.fixture
def run(study_file, hospitals, tmp_path):
    def run(name, *overrides, **keys):
        settings = settings_of(
            study_file, hospitals, tmp_path / name, *SCAFFOLD, *overrides, **keys
        )
        summary = simulate(settings, Silent())
        arrays = arrays_of(tmp_path / name)
        model = {n: a for n, a in arrays.items() if not n.startswith("preprocessing.")}
        return summary, np.concatenate([model[n].ravel() for n in sorted(model)])

    return run


def test_secure_and_plain_sums_give_the_same_model_to_rounding(run):
    _, plain = run("plain", PLAIN, "aggregation.secure=false")
    summary, secure = run("secure", PLAIN, "aggregation.secure=true")
    assert summary["secure_aggregation"]
    np.testing.assert_allclose(secure, plain, atol=2e-3)
    _, fedavg = run("fedavg", PLAIN, "training.strategy=fedavg")
    assert np.abs(secure - fedavg).max() > 10 * np.abs(secure - plain).max()


def test_inline_and_process_give_the_same_model_to_the_last_bit(run):
    _, one = run("inline", PLAIN)
    _, other = run("process", PLAIN, backend="process")
    np.testing.assert_array_equal(one, other)


def test_requests_to_train_are_longer_by_a_model_and_updates_by_nothing(run, monkeypatch):
    """What is sent, in values: nothing of a control variate leaves a site."""
    sent = {"scaffold": [], "fedavg": []}
    strategy = ""
    answer = messages.update_record

    def asking(header, model):
        sent[strategy].append(model)
        return messages_of(header, model)

    messages_of = messages.model_record
    monkeypatch.setattr("wardround_server.coordinator.model_record", asking)
    updates = {"scaffold": [], "fedavg": []}

    def answering(update):
        updates[strategy].append((update.delta.size, update.counts.size))
        return answer(update)

    monkeypatch.setattr("wardround_client.outbound.update_record", answering)
    for strategy in sent:
        run(strategy, PLAIN, "aggregation.secure=false", f"training.strategy={strategy}")
    assert updates["scaffold"] == updates["fedavg"]
    assert all(model.control is None for model in sent["fedavg"])
    controls = [model.control for model in sent["scaffold"] if model.control is not None]
    assert [control.size for control in controls] == [updates["fedavg"][0][0]] * 4
    assert not controls[0].any()
    assert all(control.any() for control in controls[1:])
    assert [len(m.counted) for m in sent["scaffold"] if m.control is not None] == [0, 3, 3, 3]


def test_private_scaffold_costs_what_its_steps_cost(run):
    summary, _ = run("scaffold")
    assert all(e <= 8.0 for e in summary["privacy"]["epsilon"].values())
    assert {spent["steps"] for spent in summary["privacy"]["spent"].values()} == {4 * 6}


def test_under_privacy_the_correction_comes_after_clipping_and_noise(run, monkeypatch):
    """A correction far above the clipping bound moves the model by all of itself."""
    found = []

    def listening(module, examples, index, settings):
        begun = flatten(module)
        changes = []
        for given in (None, torch.full_like(begun, 1000.0)):
            unflatten_(module, begun)
            injected = replace(settings.protection, noise=InjectedNoise(5), steps=1)
            one = replace(settings, protection=injected, correction=given)
            changes.append(train(module, examples, index, one))
        found.append((changes[0] - changes[1]) / settings.training.rate_in(settings.round))
        unflatten_(module, begun)
        return train(module, examples, index, settings)

    monkeypatch.setattr(site_module, "train", listening)
    run("scaffold", noise_seed=1)
    assert len(found) == 12
    np.testing.assert_allclose(np.concatenate(found), 1000.0, rtol=1e-4)


def test_where_images_are_made_it_is_refused():
    with pytest.raises(
        UnsupportedError, match=r"training\.strategy: \"scaffold\" does not go with"
    ):
        load_study(find_study("pneumonia-images"), [*SCAFFOLD, "training.optimiser=sgd"])
