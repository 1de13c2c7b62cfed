"""What a site keeps of a run is there after a crash, whole and its own, or the site stops."""

import threading

import pytest
from flwr.app import ConfigRecord, RecordDict

from wardround_client.rounds import begin_round
from wardround_client.run_state import StateFile
from wardround_shared.errors import PrivacyError, ProtocolError

PLAN = {"units": 40, "noise-multiplier": 1.2345678901234567, "sample-rate": 0.1}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "runs" / "run-1" / "state.json"


@pytest.fixture
def state(file):
    return StateFile(file=file, run="run-1", study_id="ab")


@pytest.fixture(params=["context", "file"])
def any_state(request, state):
    return RecordDict() if request.param == "context" else state


def again(state):
    """As another process finds it."""
    return StateFile(file=state.file, run=state.run, study_id=state.study_id)


def test_records_are_found_as_they_were_kept(any_state):
    assert any_state.get("plan") is None
    any_state["plan"] = ConfigRecord(PLAN)
    any_state["other"] = ConfigRecord({"round": 3})
    any_state["other"] = ConfigRecord({"round": 4})
    assert dict(any_state.get("plan")) == PLAN
    assert dict(any_state.get("other")) == {"round": 4}


def test_a_process_that_comes_up_finds_what_the_last_one_kept(state):
    state["plan"] = ConfigRecord(PLAN)
    found = dict(again(state).get("plan"))
    assert found == PLAN
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in PLAN.items()
    }


def test_a_file_torn_or_changed_anywhere_is_refused(state, file):
    state["plan"] = ConfigRecord({"units": 40})
    whole = file.read_bytes()
    for place in range(len(whole)):
        for damaged in (whole[:place], whole[:place] + b"7" + whole[place + 1 :]):
            if damaged == whole:
                continue
            file.write_bytes(damaged)
            with pytest.raises(PrivacyError, match="damaged"):
                state.get("plan")
            with pytest.raises(PrivacyError, match="damaged"):
                state["plan"] = ConfigRecord(PLAN)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"records": 3}', b"\xff", b"null"])
def test_something_else_is_refused(state, file, text):
    file.parent.mkdir(parents=True)
    file.write_bytes(text)
    with pytest.raises(PrivacyError, match="damaged"):
        state.get("plan")


@pytest.mark.parametrize("other", [{"run": "run-2"}, {"study_id": "cd"}], ids=str)
def test_the_state_of_another_run_is_refused(state, file, other):
    state["plan"] = ConfigRecord(PLAN)
    with pytest.raises(PrivacyError, match="another run's"):
        StateFile(**({"file": file, "run": "run-1", "study_id": "ab"} | other)).get("plan")


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_breaks_off_changes_nothing(state, monkeypatch, step):
    state["plan"] = ConfigRecord(PLAN)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(step, full)
        with pytest.raises(PrivacyError, match="No space left on device"):
            state["plan"] = ConfigRecord({"units": 1})
    assert dict(again(state).get("plan")) == PLAN


def test_two_that_keep_records_at_once_lose_none(state):
    def keep(name):
        mine = again(state)
        for number in range(25):
            mine[f"{name}-{number}"] = ConfigRecord({"number": number})

    threads = [threading.Thread(target=keep, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "ab":
        assert [state.get(f"{name}-{n}")["number"] for n in range(25)] == list(range(25))


# --- rounds -------------------------------------------------------------------------------------


def test_a_refused_round_changes_nothing(any_state):
    begin_round(any_state, 4)
    for number in (4, 3):
        with pytest.raises(ProtocolError, match="each round is trained once"):
            begin_round(any_state, number)
    begin_round(any_state, 5)
    with pytest.raises(ProtocolError, match="has got to round 5"):
        begin_round(any_state, 5)


def test_only_the_last_round_is_begun_again_and_only_with_a_store(any_state):
    with pytest.raises(ProtocolError):
        begin_round(any_state, 0, repeats=True)
    begin_round(any_state, 4, repeats=True)
    begin_round(any_state, 4, repeats=True)
    for number in (3, 0, -1):
        with pytest.raises(ProtocolError, match="each round is trained once"):
            begin_round(any_state, number, repeats=True)
    with pytest.raises(ProtocolError, match="each round is trained once"):
        begin_round(any_state, 4)
    begin_round(any_state, 5, repeats=True)
