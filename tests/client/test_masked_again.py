"""With secure aggregation a question has one vector, masked anew each time it is asked for."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from daemon_hospitals import Killed, Moments
from flwr.app import RecordDict
from secure_hospitals import KINDS, ME, RUN, SecureHospitals

from wardround_client import site as site_module
from wardround_client.account import Account
from wardround_client.answer_files import ANSWERS, AnswerFiles
from wardround_client.journal import Journal
from wardround_client.ledger import Ledger
from wardround_client.policy import Policy
from wardround_client.received import Request
from wardround_client.run_state import STATE, StateFile
from wardround_client.secure import SECURE, write_identity
from wardround_client.site import Site
from wardround_client.workplace import Models, Workplace
from wardround_shared.errors import PrivacyError, ProtocolError, RunError
from wardround_shared.messages import (
    CONFIRMATION,
    SURVIVORS,
    TRAIN,
    UNMASK_ANSWER,
    UNMASK_REQUEST,
    read_secure,
)
from wardround_shared.privacy.noise import InjectedNoise
from wardround_shared.secure_aggregation import one_mask
from wardround_shared.secure_aggregation.faults import SpentError
from wardround_shared.secure_aggregation.server import SecureServer
from wardround_shared.secure_aggregation.wire import (
    Confirmation,
    MaskedVector,
    UnmaskAnswer,
    decode,
    encode,
)


class Daemons(SecureHospitals):
    """Its site `north` keeps everything in a home, and can be started again from there."""

    def move(self, name: str) -> None:
        """Homes where nothing has happened yet, and a server that knows none of it."""
        self.home = self.base / name
        self.run = self.home / "runs" / RUN
        for number, site in enumerate(self.cohorts):
            self.folders[site] = self.home / "others" / site
            if site == ME:
                self.folders[site] = self.run / SECURE
            write_identity(self.folders[site], bytes([number + 1]) * 32)
        self.server = SecureServer(terms=self.terms)
        self.start()
        self.set_up()

    def start(self) -> None:
        self.sites[ME] = self._site(ME, self.base)

    def again(self) -> None:
        """The server gives its attempt up and begins another one."""
        self.server.give_up()
        self.set_up()

    def _site(self, name: str, folder) -> Site:
        self.base = folder
        if name != ME or not hasattr(self, "home"):
            return super()._site(name, folder)
        workplace = Workplace(
            study=self.study,
            device=torch.device("cpu"),
            seed=0,
            noise_of=lambda _site, number: InjectedNoise(number),
            repeatable=True,
        )
        made = Ledger.open if Ledger.traces(self.home) else Ledger.create
        self.ledgers[ME] = made(self.home, site=ME, durable=False)
        account = Account(
            study=self.study,
            cohort=self.cohorts[ME],
            ledger=self.ledgers[ME],
            policy=Policy.of(epsilon=8.0, delta=1e-5),
            data_set="clinic",
        )
        of_run = {"run": RUN, "study_id": self.study.study_id}
        return Site(
            cohort=self.cohorts[ME],
            workplace=workplace,
            models=Models(workplace),
            journal=Journal(self.run),
            account=account if self.study.privacy.private else None,
            member=partial(self.member, ME),
            answers=AnswerFiles(folder=self.run / ANSWERS, **of_run),
            state=StateFile(file=self.run / STATE, **of_run),
        )

    def ask_anew(self, kind: str, *, model=None) -> MaskedVector:
        request = self.requests(kind, model=model)[ME]
        return self.answered(self.ask(kind, request, model=model))

    def states(self):
        return [entry.state for entry in self.ledgers[ME].entries()]


@pytest.fixture(params=["dp-sgd", "none"])
def daemons(request, study_file, hospitals, tmp_path):
    made = Daemons(
        study_file,
        hospitals,
        tmp_path,
        f"privacy.mechanism={request.param}",
        "privacy.unit=record",
    )
    made.move("home-1")
    return made


@pytest.fixture
def before_masks(monkeypatch):
    """Each vector as it was before its masks."""
    vectors = []
    apply = one_mask.OneMask.apply

    def listening(self, vector):
        vectors.append(vector.copy())
        return apply(self, vector)

    monkeypatch.setattr(one_mask.OneMask, "apply", listening)
    return vectors


def another_model(model):
    return dataclasses.replace(model, parameters=model.parameters + np.float32(1))


@pytest.mark.parametrize("kind", KINDS)
def test_asked_again_a_site_masks_the_same_vector_with_other_keys(daemons, before_masks, kind):
    sent = [daemons.ask_anew(kind)]
    for restart in (False, True):
        daemons.again()
        if restart:
            daemons.start()
        sent.append(daemons.ask_anew(kind))
    first, *others = before_masks
    for other in others:
        np.testing.assert_array_equal(first, other)
    texts = {bytes(vector.vector) for vector in sent}
    assert len(texts) == 3, "one pad for one sending"
    assert first.tobytes() not in texts
    paid = daemons.study.privacy.private and kind == TRAIN
    assert daemons.states() == ["committed"] * paid


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_on_disk_is_the_vector_before_its_masks(daemons, before_masks, kind):
    daemons.ask_anew(kind)
    (file,) = (daemons.run / ANSWERS).glob("*.answer")
    assert before_masks[0].tobytes() in file.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment_one_vector_is_masked_and_paid_for(daemons, before_masks, kind):
    moments = Moments()
    with moments.killing(None):
        daemons.ask_anew(kind)
    (uninterrupted,) = before_masks
    for moment in range(1, moments.passed + 1):
        daemons.move(f"home-killed-{moment}")
        request = daemons.requests(kind)[ME]
        before_masks.clear()
        with pytest.raises(Killed) as killed, Moments().killing(moment):
            daemons.ask(kind, request)
        daemons.start()
        daemons.again()
        daemons.ask_anew(kind)
        for vector in before_masks:
            np.testing.assert_array_equal(vector, uninterrupted, str(killed.value))
        paid = daemons.study.privacy.private and kind == TRAIN
        assert daemons.states() == ["committed"] * paid


@pytest.mark.parametrize("kind", KINDS)
def test_another_model_is_refused_before_masks_or_data_are_touched(daemons, before_masks, kind):
    daemons.ask_anew(kind)
    daemons.again()
    with pytest.raises(ProtocolError, match="another model"):
        daemons.ask_anew(kind, model=another_model(daemons.models[kind]))
    assert len(before_masks) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_vector_is_not_given_without_masks(daemons, kind):
    daemons.ask_anew(kind)
    daemons.again()
    bare = dataclasses.replace(daemons.requests(kind)[ME], secure={})
    with pytest.raises(PrivacyError, match="in the clear"):
        daemons.ask(kind, bare)


def test_once_its_sum_is_unmasked_a_stored_vector_is_masked_no_more(daemons, before_masks):
    server, header = daemons.server, daemons.header(TRAIN)

    def exchange(name, method, part, sent):
        request = Request(header=header, secure={part: encode(sent)}, digest=b"")
        return read_secure(getattr(daemons.sites[name], method)(request))

    for name, request in daemons.requests(TRAIN).items():
        daemons.state = RecordDict()  # that of the node; the others have no file
        server.take_vector(name, daemons.answered(daemons.ask(TRAIN, request, name=name)))
    survivors = server.close_vectors()
    for name in daemons.sites:
        signed = exchange(name, "confirm", SURVIVORS, survivors)[CONFIRMATION]
        server.take_confirmation(name, decode(signed, Confirmation))
    asked = server.close_confirmations()
    for name in daemons.sites:
        answer = exchange(name, "unmask", UNMASK_REQUEST, asked)[UNMASK_ANSWER]
        server.take_answer(name, decode(answer, UnmaskAnswer))
    np.testing.assert_array_equal(server.close_round().total, sum(before_masks))
    daemons.start()
    daemons.set_up()
    with pytest.raises(SpentError, match="that question"):
        daemons.ask_anew(TRAIN)
    assert len(before_masks) == 3


def test_a_failure_has_one_reason_and_is_not_tried_again(daemons, monkeypatch):
    tried = []

    def failing(*_):
        tried.append(True)
        raise RunError("patient 4711")

    monkeypatch.setattr(site_module, "train", failing)
    said = set()
    for _ in range(3):
        with pytest.raises(RunError) as raised:
            daemons.ask_anew(TRAIN)
        said.add(str(raised.value))
        daemons.start()
        daemons.again()
    assert len(said) == len(tried) == 1
    assert "4711" not in said.pop()
    assert "4711" not in (daemons.run / ANSWERS).glob("*.answer").__next__().read_text("latin-1")
    assert daemons.states() == ["committed"] * daemons.study.privacy.private


def test_one_turn_at_a_time_holds_for_every_exchange(daemons, monkeypatch):
    """Each of them reads the member's state and writes it back."""
    turns = []
    turn = AnswerFiles.turn

    def listening(self, run):
        turns.append(run)
        return turn(self, run)

    monkeypatch.setattr(AnswerFiles, "turn", listening)
    request = daemons.requests(TRAIN)[ME]
    for exchange in (daemons.sites[ME].set_up, daemons.sites[ME].confirm):
        exchange(dataclasses.replace(request, secure={}))
    with pytest.raises(KeyError):
        daemons.sites[ME].unmask(dataclasses.replace(request, secure={}))
    daemons.ask(TRAIN, request)
    assert turns == [RUN] * 4
    strange = dataclasses.replace(request.header, run="run-2")
    with pytest.raises(ProtocolError, match="another run"):
        daemons.sites[ME].set_up(dataclasses.replace(request, header=strange))
