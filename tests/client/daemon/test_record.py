"""What a site's answers leave in its audit log: what was made of data, and what was refused."""

import json
from dataclasses import replace

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from scripted_clock import ScriptedClock

from wardround_client.daemon.record import Refusals, recorded
from wardround_shared.audit_log import AuditLog, verify
from wardround_shared.errors import LedgerError, NotAllowedError, ProtocolError
from wardround_shared.messages import HELLO, TRAIN, UNMASK, Header, header_record

HEADER = Header(study_id="ab" * 32, run="run-1", round=3)


class Scene:
    def __init__(self, folder):
        self.file = folder / "audit.jsonl"
        self.fails = None
        self.worked = True
        app = ClientApp()

        def answer(message, context):
            if self.fails is not None:
                raise self.fails
            content = RecordDict({"said": ConfigRecord({"n": 1})})
            return Message(content, reply_to=message)

        app.train()(answer)
        app.query("hello")(answer)
        app.query("unmask")(answer)
        self.answer = recorded(app, self.file, worked=lambda: self.worked)

    def lines(self):
        if not self.file.exists():
            return []
        assert not verify(self.file)
        return [json.loads(line) for line in self.file.read_text().splitlines()]


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def test_what_is_made_of_data_is_a_line_and_what_only_prepares_it_is_none(scene):
    for kind in (HELLO, TRAIN, UNMASK):
        assert "said" in scene.answer(kind, header_record(HEADER))
    lines = [(line["event"], line["run"], line["round"]) for line in scene.lines()]
    assert lines == [("trained", "run-1", 3), ("unmasked", "run-1", 3)]


def test_a_refusal_says_why_where_that_may_be_said(scene):
    scene.fails = NotAllowedError("It is not approved.")
    with pytest.raises(NotAllowedError):
        scene.answer(TRAIN, header_record(HEADER))
    scene.fails = LedgerError("/srv/patients/mueller is damaged")
    with pytest.raises(LedgerError):
        scene.answer(TRAIN, header_record(HEADER))
    first, second = scene.lines()
    assert (first["event"], first["reason"]) == ("refused", "It is not approved.")
    assert (second["event"], second["reason"]) == ("refused", "LedgerError")
    assert "mueller" not in scene.file.read_text()


def test_a_request_without_a_header_is_refused_with_a_line(scene):
    with pytest.raises(ProtocolError):
        scene.answer(TRAIN, RecordDict())
    (line,) = scene.lines()
    assert line["event"] == "refused"
    assert "run" not in line


@pytest.mark.parametrize("number", [-1, 2**62])
@pytest.mark.parametrize("run", ["", "../..", "a\nb", "x" * 5000, "\x1b[2J"])
def test_whatever_the_server_calls_a_run_the_log_stays_sound(scene, run, number):
    header = Header(study_id="ab" * 32, run=run, round=number)
    scene.fails = AssertionError("nobody is asked")
    for kind in (TRAIN, UNMASK, HELLO):
        with pytest.raises(ProtocolError, match="its run has a name, or its round"):
            scene.answer(kind, header_record(header))
    scene.fails = None
    assert [line["event"] for line in scene.lines()] == ["refused"] * 3
    assert all({"run", "round"}.isdisjoint(line) for line in scene.lines())
    assert "said" in scene.answer(TRAIN, header_record(HEADER))
    assert scene.lines()[-1]["event"] == "trained"


def test_the_same_refusal_again_and_again_does_not_fill_the_disk(tmp_path):
    clock, file = ScriptedClock(), tmp_path / "audit.jsonl"
    refusals = Refusals(AuditLog(file), clock=clock)
    for _ in range(100):
        refusals.note(HELLO, HEADER, NotAllowedError("no"))
        clock.now += 60
    assert len(file.read_text().splitlines()) == 2
    refusals.note(HELLO, HEADER, NotAllowedError("another reason"))
    for _ in range(10):
        refusals.note(HELLO, HEADER, NotAllowedError("no"))
        refusals.note(HELLO, HEADER, NotAllowedError("another reason"))
    assert len(file.read_text().splitlines()) == 3


def test_nor_do_ever_other_refusals(tmp_path):
    clock, file = ScriptedClock(), tmp_path / "audit.jsonl"
    refusals = Refusals(AuditLog(file), clock=clock)
    for number in range(1000):
        refusals.note(HELLO, replace(HEADER, round=number), NotAllowedError("no"))
    assert len(file.read_text().splitlines()) == 200
    clock.now += 3601
    refusals.note(HELLO, HEADER, NotAllowedError("no"))
    assert len(file.read_text().splitlines()) == 201


def test_an_answer_that_was_kept_is_said_to_be_given_again(scene):
    """Else the log would count trainings, and sums, that never were."""
    for worked in (True, False, False):
        scene.worked = worked
        for kind in (HELLO, TRAIN, UNMASK):
            scene.answer(kind, header_record(HEADER))
    events = [line["event"] for line in scene.lines()]
    # To unmask is said each time: shares leave.
    assert events == ["trained", "unmasked", *["repeated", "unmasked"] * 2]
    assert {line["question"] for line in scene.lines() if line["event"] == "repeated"} == {"train"}


@pytest.mark.parametrize("error", [ValueError("mueller"), MemoryError(), OSError("/srv/mueller")])
def test_whatever_goes_wrong_leaves_a_line_that_names_no_patient(scene, error):
    scene.fails = error
    with pytest.raises(type(error)):
        scene.answer(TRAIN, header_record(HEADER))
    (line,) = scene.lines()
    assert (line["event"], line["run"], line["reason"]) == (
        "refused",
        "run-1",
        type(error).__name__,
    )
    assert "mueller" not in scene.file.read_text()
