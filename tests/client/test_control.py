"""A site's control variate stays, survives a crash, and is that of an update that was counted."""

from dataclasses import replace

import numpy as np
import pytest
from daemon_hospitals import RUN, DaemonHospital, Killed, Moments
from flwr.app import RecordDict

from wardround_client.control import CONTROL, ControlPart, Drift
from wardround_client.personal_files import PersonalFiles
from wardround_client.received import Request
from wardround_shared.errors import PrivacyError, ProtocolError, RunError
from wardround_shared.messages import EVALUATE, TRAIN, Header, read_update

STEPS, RATE = 3, 0.05
SCAFFOLD = (
    "training.strategy=scaffold",
    f"training.local-steps={STEPS}",
    f"training.learning-rate={RATE}",
    "training.learning-rate-schedule=constant",
    "training.momentum=0",
    "training.rounds=3",
    "aggregation.secure=false",
)


@pytest.fixture(params=["dp-sgd", "none"])
def hospital(request, study_file, hospitals, tmp_path):
    overrides = (*SCAFFOLD, f"privacy.mechanism={request.param}")
    return DaemonHospital(study_file, hospitals, tmp_path, *overrides)


def model_of(hospital, counted=0, shared=0.0):
    model = hospital.models[TRAIN]
    return replace(
        model,
        control=np.full_like(model.parameters, shared),
        counted={hospital.cohort.site: counted} if counted else {},
    )


def delta_of(hospital, number, model):
    header = Header(study_id=hospital.study.study_id, run=RUN, round=number)
    request = Request(header=header, secure={}, digest=bytes([number]) * 32)
    update = read_update(hospital.site.train(request, model, RecordDict()))
    return update.delta / np.float32(update.weight)


def kept(hospital, number):
    of_run = {"run": RUN, "study_id": hospital.study.study_id}
    return PersonalFiles(folder=hospital.run / CONTROL, **of_run).of(number)


def names(hospital):
    return sorted(file.name for file in (hospital.run / CONTROL).iterdir())


def test_it_moves_by_what_left_the_site_and_by_nothing_else(hospital):
    """Option II, from the update as it left: with DP's noise in it."""
    first = delta_of(hospital, 1, model_of(hospital))
    np.testing.assert_allclose(kept(hospital, 1), -first / (STEPS * RATE), rtol=1e-4, atol=1e-6)
    second = delta_of(hospital, 2, model_of(hospital, counted=1, shared=0.25))
    expected = kept(hospital, 1) - 0.25 - second / (STEPS * RATE)
    np.testing.assert_allclose(kept(hospital, 2), expected, rtol=1e-4, atol=1e-6)


def test_an_update_that_was_not_counted_is_forgotten(hospital):
    delta_of(hospital, 1, model_of(hospital))
    delta_of(hospital, 2, model_of(hospital, counted=1, shared=0.25))
    third = delta_of(hospital, 3, model_of(hospital, counted=1, shared=0.5))
    expected = kept(hospital, 1) - 0.5 - third / (STEPS * RATE)
    np.testing.assert_allclose(kept(hospital, 3), expected, rtol=1e-4, atol=1e-6)
    assert names(hospital) == ["round-1.safetensors", "round-3.safetensors"]


def test_before_its_first_update_is_counted_it_is_zero(hospital):
    delta_of(hospital, 1, model_of(hospital))
    second = delta_of(hospital, 2, model_of(hospital, shared=0.5))
    expected = -0.5 - second / (STEPS * RATE)
    np.testing.assert_allclose(kept(hospital, 2), expected, rtol=1e-4, atol=1e-6)
    assert names(hospital) == ["round-2.safetensors"]


def test_killed_at_any_moment_it_is_that_of_one_training(hospital):
    def second():
        return hospital.ask(TRAIN, number=2, model=model_of(hospital, counted=1, shared=0.1))

    def first():
        hospital.ask(TRAIN, number=1, model=model_of(hospital))

    first()
    moments = Moments()
    with moments.killing(None):
        answer = second()
    own = kept(hospital, 2)
    # Under DP there are more of them, and what they do to the ledger is tested elsewhere.
    every = 4 if hospital.study.privacy.private else 1
    for moment in range(1, moments.passed + 1, every):
        hospital.move(f"home-killed-{moment}")
        first()
        with pytest.raises(Killed) as killed, Moments().killing(moment):
            second()
        hospital.start()
        assert second() == answer, str(killed.value)
        np.testing.assert_array_equal(kept(hospital, 2), own)
        assert not list(hospital.run.rglob("*.unfinished"))


@pytest.mark.parametrize("content", [b"", None])
def test_lost_or_damaged_it_stops_the_site_before_it_pays(hospital, content):
    hospital.ask(TRAIN, number=1, model=model_of(hospital))
    paid, file = hospital.states(), hospital.run / CONTROL / "round-1.safetensors"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(PrivacyError, match="start a new run"):
        hospital.ask(TRAIN, number=2, model=model_of(hospital, counted=1))
    assert hospital.states() == paid


def test_a_site_that_is_counted_in_this_round_or_a_later_one_does_not_train(hospital):
    hospital.ask(TRAIN, number=1, model=model_of(hospital))
    for counted in (2, 3):
        with pytest.raises(ProtocolError, match=f"counted this site in round {counted}"):
            hospital.ask(TRAIN, number=2, model=model_of(hospital, counted=counted))


def test_a_request_brings_it_where_the_study_says_so_and_nowhere_else(hospital):
    wrong = model_of(hospital)
    short = replace(wrong, control=wrong.control[1:])
    for model in (hospital.models[TRAIN], short):
        with pytest.raises(ProtocolError, match="control variate"):
            hospital.ask(TRAIN, number=1, model=model)
    with pytest.raises(ProtocolError, match="control variate"):
        hospital.ask(EVALUATE, model=wrong)
    assert not hospital.states()


def test_one_that_is_not_finite_is_not_kept(hospital):
    of_run = {"run": RUN, "study_id": hospital.study.study_id}
    files = PersonalFiles(folder=hospital.run / "personal", **of_run)
    part = ControlPart(hospital.study, site="north", files=files)
    drift = Drift(own=np.zeros(2, "f4"), shared=np.full(2, 3e38, "f4"), counted=0)
    with pytest.raises(RunError, match="diverged"):
        part.keep(drift, np.full(2, 3e38, "f4"), Header(round=1, **of_run))
    assert not (hospital.run / CONTROL).exists()


def test_a_site_without_a_place_for_it_is_not_made(hospital):
    with pytest.raises(ValueError, match="no place"):
        ControlPart(hospital.study, site="north", files=None)


def test_nobody_else_reads_it(hospital):
    hospital.ask(TRAIN, number=1, model=model_of(hospital))
    folder = hospital.run / CONTROL
    assert folder.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())
