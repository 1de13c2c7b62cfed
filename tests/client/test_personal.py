"""What is a site's own stays there, survives a crash, and is nobody else's."""

import json

import numpy as np
import pytest
import torch
from daemon_hospitals import RUN, DaemonHospital, Killed, Moments
from flwr.app import RecordDict
from pydantic import TypeAdapter
from safetensors.numpy import load_file

from wardround_client import site as site_module
from wardround_client.personal import PersonalPart, normalisation_places
from wardround_client.personal_files import PERSONAL, PersonalFiles
from wardround_client.policy import Policy
from wardround_client.received import Request
from wardround_shared.errors import BudgetError, PrivacyError, ProtocolError, RunError
from wardround_shared.messages import EVALUATE, TRAIN, Header, read_update
from wardround_shared.models import build_model, flatten
from wardround_shared.study import MODEL_NAMES, Model, UNet, has_normalisation, load_study
from wardround_simulations.options import find_study
from wardround_simulations.virtual_sites import phantom_folder

SMALL = (
    "data.sites=3",
    "data.patients-per-site=16",
    "data.size=32",
    'preprocessing.steps=[{ name = "resize", size = [16, 16] }, { name = "standardise" }]',
    "model.width=4",
    "model.dense=4",
    "training.rounds=3",
    "training.local-epochs=1",
    "training.batch-size=8",
    "aggregation.secure=false",
)
OWN_LAYERS = 'personal.layers="normalisation"'


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    study = load_study(find_study("phantom"), SMALL)
    return phantom_folder(study.data, cache=tmp_path_factory.mktemp("phantoms"), seed=3)


@pytest.fixture(params=["dp-sgd", "none"])
def hospital(request, phantoms, tmp_path):
    overrides = (*SMALL, f"privacy.mechanism={request.param}", OWN_LAYERS)
    return DaemonHospital(find_study("phantom"), phantoms, tmp_path, *overrides)


def module_of(hospital):
    return hospital.site._models._built[hospital.site._shapes]


def update_of(hospital, number):
    header = Header(study_id=hospital.study.study_id, run=RUN, round=number)
    request = Request(header=header, secure={}, digest=bytes(32))
    return read_update(hospital.site.train(request, hospital.models[TRAIN], RecordDict()))


def files(hospital, run=RUN):
    of_run = {"run": run, "study_id": hospital.study.study_id}
    return PersonalFiles(folder=hospital.run / PERSONAL, **of_run)


def kept(hospital, before):
    return files(hospital).before(before)


def test_a_model_has_places_of_its_own_where_the_study_believes_so():
    shapes = {"mlp": ((13,),), "bilstm": ((1, 64),)}
    shapes |= dict.fromkeys(("cnn1d", "lstm", "gru", "cnn-lstm"), ((2, 256),))
    fronted = [{"name": name, "front": 4} for name in ("lstm", "gru")]
    for keys in [*({"name": name} for name in MODEL_NAMES), *fronted]:
        model = TypeAdapter(Model).validate_python(keys)
        answers = "pixel" if isinstance(model, UNet) else "example"
        with torch.device("meta"):
            module = build_model(model, shapes.get(model.name, ((1, 64, 64),)), 2, answers)
        assert normalisation_places(module).any() == has_normalisation(model), keys


def test_own_layers_are_not_in_the_update_and_change_from_round_to_round(hospital):
    update = update_of(hospital, 1)
    places = normalisation_places(module_of(hospital))
    assert places.any()
    assert not update.delta[places].any()
    assert np.count_nonzero(update.delta[~places]) > 0.5 * np.count_nonzero(~places)
    first, received = kept(hospital, 2), hospital.models[TRAIN].parameters[places]
    assert np.any(first != received)
    update_of(hospital, 2)
    assert np.any(kept(hospital, 3) != first)
    np.testing.assert_array_equal(kept(hospital, 2), first)
    assert kept(hospital, 1) is None


def test_a_round_begins_with_the_layers_that_the_last_one_left(hospital):
    """Whatever the server sends in their place."""
    hospital.ask(TRAIN, number=1)
    places = normalisation_places(module_of(hospital))
    model = hospital.models[TRAIN]
    parameters = model.parameters.copy()
    parameters[places] = -7.0
    hospital.models[TRAIN] = type(model)(
        parameters=parameters, fitted=model.fitted, class_counts=model.class_counts
    )
    disturbed = update_of(hospital, 2).delta
    hospital.move("home-2")
    hospital.models[TRAIN] = model
    hospital.ask(TRAIN, number=1)
    np.testing.assert_array_equal(update_of(hospital, 2).delta, disturbed)


def test_killed_at_any_moment_the_layers_are_those_of_one_training(hospital):
    hospital.ask(TRAIN, number=1)
    moments = Moments()
    with moments.killing(None):
        answer = hospital.ask(TRAIN, number=2)
    layers = kept(hospital, 3)
    evaluated = hospital.ask(EVALUATE)
    paid = hospital.states()
    for moment in range(1, moments.passed + 1):
        hospital.move(f"home-killed-{moment}")
        hospital.ask(TRAIN, number=1)
        with pytest.raises(Killed) as killed, Moments().killing(moment):
            hospital.ask(TRAIN, number=2)
        hospital.start()
        assert hospital.ask(TRAIN, number=2) == answer, str(killed.value)
        np.testing.assert_array_equal(kept(hospital, 3), layers)
        assert hospital.ask(EVALUATE) == evaluated
        assert hospital.states() == paid
        assert not list(hospital.run.rglob("*.unfinished"))


def test_only_the_last_two_rounds_are_kept_and_nobody_else_reads_them(hospital):
    for number in (1, 2, 3):
        hospital.ask(TRAIN, number=number)
    hospital.ask(EVALUATE)
    folder = hospital.run / PERSONAL
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["model.safetensors", "round-2.safetensors", "round-3.safetensors"]
    assert folder.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())


def test_damaged_layers_and_those_of_another_run_stop_the_site(hospital):
    hospital.ask(TRAIN, number=1)
    with pytest.raises(PrivacyError, match="damaged or is another run's"):
        files(hospital, run="run-2").before(2)
    file = hospital.run / PERSONAL / "round-1.safetensors"
    sound = file.read_bytes()
    for broken in (sound[:-1], sound[:-1] + bytes([sound[-1] ^ 1]), b"", b"\xff" * 40):
        file.write_bytes(broken)
        with pytest.raises(PrivacyError, match="start a new run"):
            kept(hospital, 2)
    file.write_bytes(sound)
    (hospital.run / PERSONAL / "round-2.safetensors").write_bytes(sound)
    with pytest.raises(PrivacyError, match="damaged"):  # in another one's place
        kept(hospital, 3)


def test_damaged_layers_cost_nothing(hospital):
    hospital.ask(TRAIN, number=1)
    paid = hospital.states()
    (hospital.run / PERSONAL / "round-1.safetensors").write_bytes(b"")
    with pytest.raises(PrivacyError, match="damaged"):
        hospital.ask(TRAIN, number=2)
    assert hospital.states() == paid


def test_a_site_without_a_place_for_its_own_layers_is_not_made(hospital):
    with pytest.raises(ValueError, match="no place"):
        PersonalPart(hospital.study, None)


def test_the_journal_has_both_measures(hospital):
    hospital.ask(TRAIN, number=1)
    hospital.ask(EVALUATE)
    *_, last = map(json.loads, (hospital.run / "journal.jsonl").read_text().splitlines())
    assert last["own_counts"] == last["final_counts"]
    assert last["own_counts"] != last["shared_counts"]


# --- fine-tuning ----------------------------------------------------------------------------------


@pytest.fixture(params=["dp-sgd", "none"])
def tuning(request, phantoms, tmp_path):
    overrides = (*SMALL, f"privacy.mechanism={request.param}", "personal.fine-tune-epochs=2")
    return DaemonHospital(find_study("phantom"), phantoms, tmp_path, *overrides)


def own_model(hospital):
    return (hospital.run / PERSONAL / "model.safetensors").read_bytes()


def paid(hospital, *rounds):
    return [(number, "committed") for number in rounds if hospital.study.privacy.private]


@pytest.fixture
def trained(monkeypatch):
    """Round and steps of what reaches the training loop."""
    done = []
    train = site_module.train

    def listening(module, examples, index, settings):
        steps = None if settings.protection is None else settings.protection.steps
        done.append((settings.round, settings.training.local_epochs, steps))
        return train(module, examples, index, settings)

    monkeypatch.setattr(site_module, "train", listening)
    return done


def test_the_final_model_is_fine_tuned_once_and_paid_for(tuning, trained):
    tuning.ask(TRAIN, number=1)
    answer = tuning.ask(EVALUATE)
    model = own_model(tuning)
    tuning.start()
    assert tuning.ask(EVALUATE) == answer
    assert [(number, epochs) for number, epochs, _ in trained] == [(1, 1), (4, 2)]
    assert own_model(tuning) == model
    assert tuning.states() == paid(tuning, 1, 4)
    history = tuning.ledger.history("clinic")
    if tuning.study.privacy.private:
        assert [cost.steps for cost in history] == [steps for _, _, steps in trained]
        assert history[1].steps == 2 * history[0].steps
    with pytest.raises(ProtocolError, match="each round is trained once"):
        tuning.ask(TRAIN, number=2)


def test_killed_while_fine_tuning_it_is_paid_for_once(tuning):
    moments = Moments()
    with moments.killing(None):
        answer = tuning.ask(EVALUATE)
    model = own_model(tuning)
    for moment in range(1, moments.passed + 1):
        tuning.move(f"home-killed-{moment}")
        with pytest.raises(Killed) as killed, Moments().killing(moment):
            tuning.ask(EVALUATE)
        tuning.start()
        assert tuning.ask(EVALUATE) == answer, str(killed.value)
        assert own_model(tuning) == model
        assert tuning.states() == paid(tuning, 4)


def test_nothing_of_the_fine_tuning_is_in_the_answer(tuning, phantoms, tmp_path):
    overrides = (*SMALL, f"privacy.mechanism={tuning.study.privacy.mechanism}")
    plain = DaemonHospital(find_study("phantom"), phantoms, tmp_path / "plain", *overrides)
    assert tuning.ask(EVALUATE) == plain.ask(EVALUATE)


@pytest.mark.parametrize("tuning", ["dp-sgd"], indirect=True)
def test_without_room_in_the_ledger_nothing_is_fine_tuned(tuning, trained):
    tuning.site._account._cap = Policy.of(epsilon=0.5, delta=1e-5).cap_of("clinic")
    with pytest.raises(BudgetError):
        tuning.ask(EVALUATE)
    assert not trained
    assert not (tuning.run / PERSONAL).exists()


def test_a_fine_tuning_that_diverges_leaves_no_model(phantoms, tmp_path):
    overrides = ("privacy.mechanism=none", "personal.fine-tune-epochs=2")
    rate = "personal.fine-tune-learning-rate=1e30"
    tuning = DaemonHospital(find_study("phantom"), phantoms, tmp_path, *SMALL, *overrides, rate)
    with pytest.raises(RunError, match="diverged"):
        tuning.ask(EVALUATE)
    assert not (tuning.run / PERSONAL).exists()


# --- a whole model beside the shared one (Ditto) --------------------------------------------------


DITTO = "personal.ditto=0.5"


@pytest.fixture(params=["dp-sgd", "none"])
def beside(request, phantoms, tmp_path):
    overrides = (*SMALL, f"privacy.mechanism={request.param}", DITTO)
    return DaemonHospital(find_study("phantom"), phantoms, tmp_path, *overrides)


def without_own(beside, phantoms, folder):
    overrides = (*SMALL, f"privacy.mechanism={beside.study.privacy.mechanism}")
    return DaemonHospital(find_study("phantom"), phantoms, folder, *overrides)


def parameters_of(file):
    arrays = load_file(file)
    return {name: array for name, array in arrays.items() if not name.startswith("preprocessing.")}


def test_a_round_trains_both_models_and_pays_for_both(beside, trained):
    for number in (1, 2):
        beside.ask(TRAIN, number=number)
    assert [number for number, _, _ in trained] == [1, 1, 2, 2]
    assert beside.states() == paid(beside, 1, 2)
    if beside.study.privacy.private:
        costs = [cost.steps for cost in beside.ledger.history("clinic")]
        steps = [steps for _, _, steps in trained]
        assert costs == [steps[0] + steps[1], steps[2] + steps[3]]
        assert steps[0] == steps[1] > 0


@pytest.mark.parametrize("beside", ["none"], indirect=True)
def test_no_update_knows_of_the_own_model(beside, phantoms, tmp_path):
    """Without noise to the last bit; with it the plan is another one."""
    plain = without_own(beside, phantoms, tmp_path / "plain")
    for number in (1, 2):
        ours, theirs = update_of(beside, number), update_of(plain, number)
        np.testing.assert_array_equal(ours.delta, theirs.delta)
        np.testing.assert_array_equal(ours.counts, theirs.counts)


def test_a_round_begins_with_the_own_model_that_the_last_one_left(beside, monkeypatch):
    begun = []
    train = site_module.train

    def listening(module, examples, index, settings):
        begun.append((flatten(module).numpy(), settings.centre, settings.training.proximal))
        return train(module, examples, index, settings)

    monkeypatch.setattr(site_module, "train", listening)
    for number in (1, 2):
        beside.ask(TRAIN, number=number)
    received = beside.models[TRAIN].parameters
    (shared, _, no_pull), (first, centre, pull), again, (second, _, _) = begun
    for model in (shared, first, again[0], centre.numpy()):
        np.testing.assert_array_equal(model, received)
    np.testing.assert_array_equal(second, kept(beside, 2))
    assert np.any(kept(beside, 2) != received)
    assert (no_pull, pull) == (0.0, 0.5)


def test_the_two_trainings_draw_other_batches_and_other_noise(beside, monkeypatch):
    settings, train = [], site_module.train

    def listening(module, examples, index, given):
        settings.append(given)
        return train(module, examples, index, given)

    monkeypatch.setattr(site_module, "train", listening)
    beside.ask(TRAIN, number=1)
    shared, own = settings
    assert shared.seed != own.seed
    if own.protection is not None:
        assert own.protection.noise is shared.protection.noise


def test_the_own_model_is_what_the_last_round_left(beside):
    beside.ask(TRAIN, number=1)
    beside.ask(TRAIN, number=2)
    answer = beside.ask(EVALUATE)
    names = sorted(file.name for file in (beside.run / PERSONAL).iterdir())
    assert names == ["model.safetensors", "round-1.safetensors", "round-2.safetensors"]
    own = parameters_of(beside.run / PERSONAL / "model.safetensors")
    flat = np.concatenate([own[name].ravel() for name, _ in module_of(beside).named_parameters()])
    np.testing.assert_array_equal(flat, kept(beside, 3))
    *_, last = map(json.loads, (beside.run / "journal.jsonl").read_text().splitlines())
    assert last["final_counts"] == last["shared_counts"] != last["own_counts"]
    beside.start()
    assert beside.ask(EVALUATE) == answer
    assert beside.states() == paid(beside, 1, 2)


def test_killed_at_any_moment_the_own_model_is_that_of_one_training(beside):
    beside.ask(TRAIN, number=1)
    moments = Moments()
    with moments.killing(None):
        answer = beside.ask(TRAIN, number=2)
    own = kept(beside, 3)
    spent = beside.states()
    for moment in range(1, moments.passed + 1):
        beside.move(f"home-killed-{moment}")
        beside.ask(TRAIN, number=1)
        with pytest.raises(Killed) as killed, Moments().killing(moment):
            beside.ask(TRAIN, number=2)
        beside.start()
        assert beside.ask(TRAIN, number=2) == answer, str(killed.value)
        np.testing.assert_array_equal(kept(beside, 3), own)
        assert beside.states() == spent


def test_a_damaged_own_model_stops_the_site_before_it_pays(beside):
    beside.ask(TRAIN, number=1)
    spent = beside.states()
    (beside.run / PERSONAL / "round-1.safetensors").write_bytes(b"")
    with pytest.raises(PrivacyError, match="damaged"):
        beside.ask(TRAIN, number=2)
    assert beside.states() == spent


def test_an_own_model_that_diverges_leaves_nothing(phantoms, tmp_path, monkeypatch):
    plain = (*SMALL, "privacy.mechanism=none", "personal.ditto=0")
    beside = DaemonHospital(find_study("phantom"), phantoms, tmp_path, *plain)
    train = site_module.train

    def diverging(module, examples, index, settings):
        change = train(module, examples, index, settings)
        if settings.centre is not None:
            next(module.parameters()).data.fill_(torch.nan)
        return change

    monkeypatch.setattr(site_module, "train", diverging)
    with pytest.raises(RunError, match="diverged"):
        beside.ask(TRAIN, number=1)
    assert not (beside.run / PERSONAL).exists()
