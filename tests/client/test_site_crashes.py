"""A site that is killed anywhere and asked again answers the same, and has trained and paid once.

`Killed` is raised before and after every step on the disk, in the ledger and on the data; then the
site is started from its disk, as after a reboot.
"""

import dataclasses
import shutil
import subprocess
import sys

import numpy as np
import pytest
from daemon_hospitals import ROUNDS, DaemonHospital, Killed, Moments
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wardround_client import site as site_module
from wardround_client.answer_files import ANSWERS
from wardround_client.journal import Journal
from wardround_client.ledger import Ledger, verify
from wardround_client.run_state import STATE
from wardround_client.site import Site
from wardround_shared.errors import LedgerError, PrivacyError, ProtocolError, RunError
from wardround_shared.messages import CLASS_COUNTS, EVALUATE, STATISTICS, TRAIN

KINDS = (CLASS_COUNTS, STATISTICS, TRAIN, EVALUATE)


@pytest.fixture(params=["dp-sgd", "none"])
def hospital(request, study_file, hospitals, tmp_path):
    return DaemonHospital(study_file, hospitals, tmp_path, f"privacy.mechanism={request.param}")


@pytest.fixture
def private(study_file, hospitals, tmp_path):
    return DaemonHospital(study_file, hospitals, tmp_path)


@pytest.fixture
def open_hospital(study_file, hospitals, tmp_path):
    return DaemonHospital(study_file, hospitals, tmp_path, "privacy.mechanism=none")


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


def committed(hospital, *rounds):
    return [(number, "committed") for number in rounds if hospital.study.privacy.private]


def another_model(model):
    return dataclasses.replace(model, parameters=model.parameters + np.float32(1))


# --- killed anywhere ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment_the_answer_is_the_same_and_paid_once(hospital, trained, kind):
    moments = Moments()
    with moments.killing(None):
        uninterrupted = hospital.ask(kind)
    assert moments.passed >= (20 if kind == TRAIN else 6), "it is killed at many moments"
    for moment in range(1, moments.passed + 1):
        hospital.move(f"home-killed-{moment}")
        trained.clear()
        with pytest.raises(Killed) as killed, Moments().killing(moment):
            hospital.ask(kind)
        stored = len(hospital.answers())
        hospital.start()
        assert hospital.ask(kind) == uninterrupted, str(killed.value)
        assert hospital.states() == (committed(hospital, 1) if kind == TRAIN else [])
        if kind == TRAIN:
            assert len(trained) <= 2
        if stored and kind == TRAIN:
            assert trained == [1], "what was stored is not trained again"
        before = list(trained)
        assert hospital.ask(kind) == uninterrupted
        assert trained == before
        assert verify(hospital.home) == []
        assert not list(hospital.run.rglob("*.unfinished"))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kills=st.lists(
        st.tuples(st.integers(1, ROUNDS), st.integers(1, 40)), min_size=1, max_size=5
    ).map(sorted)
)
def test_killed_again_and_again_a_run_ends_as_if_nothing_had_been(hospital, kills):
    uninterrupted = [hospital.ask(TRAIN, number=number) for number in range(1, ROUNDS + 1)]
    hospital.move(f"home-{len(list(hospital.folder.iterdir()))}")
    answers = []
    for number in range(1, ROUNDS + 1):
        for moment in (moment for killed_in, moment in kills if killed_in == number):
            try:
                with Moments().killing(moment):
                    hospital.ask(TRAIN, number=number)
            except Killed:
                hospital.start()
        answers.append(hospital.ask(TRAIN, number=number))
    assert answers == uninterrupted
    assert hospital.states() == committed(hospital, *range(1, ROUNDS + 1))
    shutil.rmtree(hospital.home)
    hospital.move(hospital.home.name)


def test_a_site_that_stays_up_answers_from_its_store_too(hospital, trained):
    for kind in KINDS:
        assert hospital.ask(kind) == hospital.ask(kind)
    assert trained == [1]
    assert hospital.states() == committed(hospital, 1)
    assert len(Journal.read(hospital.run)) == 2, "a training and an evaluation"


def test_a_round_begun_and_not_paid_for_is_paid_for_once(private, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "reserve", _killed)
        with pytest.raises(Killed):
            private.ask(TRAIN)
    assert private.states() == []
    private.start()
    private.ask(TRAIN)
    assert private.states() == [(1, "committed")]


def _killed(*_, **__):
    raise Killed


def test_an_interrupted_training_is_taken_up_on_the_same_payment(private, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(site_module, "train", _killed)
        with pytest.raises(Killed):
            private.ask(TRAIN)
    assert private.states() == [(1, "reserved")]
    assert private.answers() == []
    private.start()
    private.ask(TRAIN)
    assert private.states() == [(1, "committed")]


# --- what is not answered again -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [STATISTICS, TRAIN, EVALUATE])
def test_another_model_is_refused_for_a_question_that_was_answered(hospital, trained, kind):
    answer = hospital.ask(kind)
    hospital.start()
    with pytest.raises(ProtocolError, match="another model"):
        hospital.ask(kind, model=another_model(hospital.models[kind]))
    assert hospital.ask(kind) == answer
    assert len(trained) <= 1


def test_earlier_rounds_come_from_the_store_or_not_at_all(hospital, trained):
    answers = {number: hospital.ask(TRAIN, number=number) for number in (1, 2, 3)}
    hospital.start()
    assert hospital.ask(TRAIN, number=3) == answers[3]
    assert hospital.ask(TRAIN, number=2) == answers[2]
    with pytest.raises(ProtocolError, match="kept for two rounds"):
        hospital.ask(TRAIN, number=1)
    with pytest.raises(ProtocolError, match="another model"):
        hospital.ask(TRAIN, number=1, model=another_model(hospital.models[TRAIN]))
    assert trained == [1, 2, 3]
    assert hospital.states() == committed(hospital, 1, 2, 3)


def test_a_round_that_was_left_out_is_not_trained_later(hospital, trained):
    hospital.ask(TRAIN, number=2)
    hospital.start()
    with pytest.raises(ProtocolError, match="each round is trained once"):
        hospital.ask(TRAIN, number=1)
    assert trained == [2]


def test_answers_that_were_taken_away_are_not_paid_for_again(private, trained):
    private.ask(TRAIN)
    shutil.rmtree(private.run / ANSWERS)
    private.start()
    with pytest.raises(ProtocolError, match="each round is trained once"):
        private.ask(TRAIN)
    assert trained == [1]
    shutil.rmtree(private.run)
    private.start()
    with pytest.raises(ProtocolError, match="each round is trained once"):
        private.ask(TRAIN)
    assert private.states() == [(1, "committed")]


def test_an_answer_without_a_payment_is_not_given(private):
    """As after the ledger of another day was put in place of this one."""
    private.ask(TRAIN)
    answers = private.run
    private.move("home-2")
    shutil.copytree(answers, private.run, dirs_exist_ok=True)
    with pytest.raises(LedgerError, match="not in the ledger"):
        private.ask(TRAIN)
    assert private.states() == []


def test_a_reservation_of_another_cohort_is_not_taken_up(private, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(site_module, "train", _killed)
        with pytest.raises(Killed):
            private.ask(TRAIN)
    private.cohort = dataclasses.replace(private.cohort, train=private.cohort.train[1:])
    private.start()
    with pytest.raises(PrivacyError, match="cohort has changed"):
        private.ask(TRAIN)
    (private.run / STATE).unlink()
    with pytest.raises(PrivacyError, match="at another cost"):
        private.ask(TRAIN)
    assert private.states() == [(1, "reserved")]


@pytest.mark.parametrize("kind", KINDS)
def test_another_run_is_refused(hospital, trained, kind):
    with pytest.raises(ProtocolError, match="another run"):
        hospital.ask(kind, run="run-2")
    with pytest.raises(ProtocolError, match="another run"):
        hospital.site.greet("run-2", {})
    assert trained == []
    assert hospital.answers() == []


def test_a_site_keeps_answers_and_state_or_neither(hospital):
    kept = {"answers": hospital.site._answers, "state": hospital.site._state}
    for name, one in kept.items():
        with pytest.raises(ValueError, match="both"):
            Site(
                cohort=hospital.cohort,
                workplace=hospital.site._workplace,
                models=hospital.site._models,
                journal=Journal(hospital.run),
                **{name: one},
            )


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RunError("The training diverged."), "The training diverged."),
        (MemoryError("patient 4711"), "MemoryError"),
    ],
)
def test_a_failure_is_the_same_failure_again_and_paid_once(hospital, monkeypatch, error, said):
    tried = []

    def failing(*_):
        tried.append(True)
        raise error

    monkeypatch.setattr(site_module, "train", failing)
    moments = Moments()
    with pytest.raises(RunError, match=said), moments.killing(None):
        hospital.ask(TRAIN)
    for moment in range(1, moments.passed + 1):
        hospital.move(f"home-failing-{moment}")
        with Moments().killing(moment), pytest.raises((Killed, RunError)):
            hospital.ask(TRAIN)
        marked = len(hospital.answers())
        tried.clear()
        hospital.start()
        for _ in range(2):
            with pytest.raises(RunError) as raised:
                hospital.ask(TRAIN)
            assert str(raised.value) == said
        assert len(tried) == (0 if marked else 1), "what the server was told is not tried again"
        assert hospital.states() == committed(hospital, 1)


def test_a_disk_that_takes_no_answer_sends_none_and_is_tried_again(hospital, monkeypatch):
    uninterrupted = hospital.ask(TRAIN)
    hospital.move("home-full")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("wardround_client.answer_files.replace", full)
        with pytest.raises(PrivacyError, match=r"No space left on device.* nothing was sent"):
            hospital.ask(TRAIN)
    assert [state for _, state in hospital.states()] in (["reserved"], [])
    hospital.start()
    assert hospital.ask(TRAIN) == uninterrupted
    assert hospital.states() == committed(hospital, 1)


def test_a_damaged_answer_is_not_sent_and_not_worked_out_again(hospital, trained):
    hospital.ask(TRAIN)
    (file,) = hospital.answers()
    file.write_bytes(file.read_bytes()[:-1])
    hospital.start()
    with pytest.raises(PrivacyError, match="damaged"):
        hospital.ask(TRAIN)
    assert trained == [1]
    hospital.ask(TRAIN, number=2)
    assert hospital.states() == committed(hospital, 1, 2)


# --- progress -------------------------------------------------------------------------------------


def test_a_site_tells_how_far_it_is(hospital):
    hospital.ask(TRAIN)
    told = {stage: [] for stage, _, _ in hospital.progress}
    for stage, done, whole in hospital.progress:
        told[stage].append((done, whole))
    assert list(told) == ["preparing", "evaluating", "training"]
    for steps in told.values():
        last, whole = steps[-1]
        assert last == whole > 0
        assert [done for done, _ in steps] == sorted({done for done, _ in steps})
        assert {of for _, of in steps} == {whole}
    assert len(told["training"]) > 1


# --- two processes --------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys
from pathlib import Path
from daemon_hospitals import DaemonHospital
from wardround_client import site as site_module

study, data, folder, home, manner = sys.argv[1:]
hospital = DaemonHospital(Path(study), Path(data), Path(folder), home=home)
train = site_module.train

def training(*arguments):
    print("training", flush=True)
    if manner == "hangs":
        signal.pause()
    return train(*arguments)

site_module.train = training
print("ready", flush=True)
sys.stdin.readline()
print(hospital.ask("train"), flush=True)
"""


@pytest.fixture
def racers(private, study_file, hospitals):
    """Starts processes that serve the same home."""
    running = []

    def start(manner):
        command = [sys.executable, "-c", PROGRAM, study_file, hospitals, private.folder, "home-1"]
        process = subprocess.Popen(
            [*map(str, command), manner],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": ":".join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"},
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_two_processes_at_once_train_and_pay_once(private, racers):
    both = [racers("trains"), racers("trains")]
    assert [one.stdout.readline() for one in both] == ["ready\n"] * 2
    for one in both:
        one.stdin.write("go\n")
        one.stdin.flush()
    said = [one.communicate(timeout=120)[0].split() for one in both]
    assert sorted(len(words) for words in said) == [1, 2], "one of them trained"
    assert said[0][-1] == said[1][-1] == private.ask(TRAIN)
    assert private.states() == [(1, "committed")]


def test_a_process_killed_in_training_lets_go_of_the_run(private, racers):
    first, second = racers("hangs"), racers("trains")
    assert [one.stdout.readline() for one in (first, second)] == ["ready\n"] * 2
    first.stdin.write("go\n")
    first.stdin.flush()
    assert first.stdout.readline() == "training\n"
    second.stdin.write("go\n")
    second.stdin.flush()
    assert private.states() == [(1, "reserved")]
    first.kill()
    assert second.stdout.readline() == "training\n"
    answer, _ = second.communicate(timeout=120)
    private.start()
    assert private.ask(TRAIN) == answer.strip()
    assert private.states() == [(1, "committed")]
