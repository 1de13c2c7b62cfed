"""Runs by their folders: names, states, two processes at once, and records that are damaged."""

import json
import multiprocessing
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_server.daemon.runs import RECORD, STATUS, Runs
from wardround_shared.agreement import RUN_NAME
from wardround_shared.errors import RunFolderError, StudyError
from wardround_shared.study import load_study

NOW = datetime(2026, 3, 1, 12, 30, 15, tzinfo=UTC)


@pytest.fixture
def study(study_file):
    return load_study(study_file)


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")


def submit(runs, study, name=None, **settings):
    return runs.submit(study, **({"name": name, "seed": 3, "now": NOW} | settings))


def test_a_run_is_what_was_asked_for(runs, study):
    record = submit(runs, study, "trial-1", sites=("west", "east"))
    assert runs.read("trial-1") == record
    assert (record.state, record.seed, record.sites) == ("submitted", 3, ("west", "east"))
    assert record.active
    assert runs.study("trial-1").study_id == study.study_id == record.study_id


def test_a_site_that_was_named_twice_is_waited_for_once(runs, study):
    assert submit(runs, study, sites=("west", "west")).sites == ("west",)


def test_a_run_without_a_name_is_named_for_study_and_time(runs, study):
    names = [submit(runs, study).name for _ in range(3)]
    assert names == [f"small-20260301-123015{end}" for end in ("", "-2", "-3")]


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "/tmp/x", "a/b", "A", "-a", "a b", "a\n", "ä", "a" * 81, ".", "a\0"]
)
def test_a_name_that_could_be_something_else_is_refused(runs, study, name):
    with pytest.raises(RunFolderError, match="cannot be the name of a run"):
        submit(runs, study, name)
    assert not runs.folder.exists()


@given(st.text(max_size=6))
def test_no_name_leads_out_of_the_folder(tmp_path_factory, name):
    if RUN_NAME.fullmatch(name):
        folder = tmp_path_factory.getbasetemp()
        assert (folder / name).resolve().parent == folder.resolve()
        assert name.isascii()


@pytest.mark.parametrize("name", ["", ".", "..", "../trial", "trial/", "./trial", "../x", "/"])
def test_a_path_to_a_run_is_not_its_name(runs, study, name):
    submit(runs, study, "trial")
    with pytest.raises(RunFolderError):
        runs.read(name)


def test_a_name_is_taken_once(runs, study):
    submit(runs, study, "trial")
    with pytest.raises(
        RunFolderError, match="There is a run trial already; give another name with --name"
    ):
        submit(runs, study, "trial", seed=4)
    assert runs.read("trial").seed == 3


def test_a_folder_without_a_record_is_no_run(runs, study):
    """Whoever submits may be killed before he has written it."""
    submit(runs, study, "trial")
    (runs.folder / "half").mkdir()
    assert [record.name for record in runs.all()] == ["trial"]
    with pytest.raises(RunFolderError, match="There is no run 'half' here; there are: trial"):
        runs.read("half")
    with pytest.raises(RunFolderError, match="none yet"):
        Runs(runs.folder / "elsewhere").read("trial")
    assert Runs(runs.folder / "elsewhere").all() == []


def test_runs_are_shown_in_the_order_in_which_they_were_asked_for(runs, study):
    submit(runs, study, "b", now=datetime(2026, 3, 2, tzinfo=UTC))
    submit(runs, study, "c", now=NOW)
    submit(runs, study, "a", now=NOW)
    assert [record.name for record in runs.all()] == ["a", "c", "b"]


def test_a_state_is_changed_only_from_where_it_may_be(runs, study):
    submit(runs, study, "trial")
    assert runs.change("trial", "finished", only={"stopped"}).state == "submitted"
    assert runs.read("trial").state == "submitted"
    failed = runs.change("trial", "failed", why="a sentence", only={"submitted"})
    assert (failed.state, failed.why, failed.active) == ("failed", "a sentence", False)
    again = runs.change("trial", "submitted", only={"failed"})
    assert (again.state, again.why) == ("submitted", "")
    assert runs.read("trial") == again
    with pytest.raises(RunFolderError, match="no run 'other'"):
        runs.change("other", "stopped", only={"running"})


def _takes(folder, start, won):
    start.wait()
    for number in range(50):
        name = f"run-{number}"
        record = Runs(folder).change(name, "running", why=won.name, only={"submitted"})
        if record.why == won.name:
            won.put(name)


class _Won:
    """A queue that knows whose it is."""

    def __init__(self, queue, name):
        self.queue, self.name = queue, name

    def put(self, what):
        self.queue.put(what)


def test_of_two_processes_one_changes_a_state(runs, study):
    for number in range(50):
        submit(runs, study, f"run-{number}")
    context = multiprocessing.get_context("fork")
    start, queue = context.Event(), context.Queue()
    both = [
        context.Process(target=_takes, args=(runs.folder, start, _Won(queue, name)))
        for name in ("one", "two")
    ]
    for process in both:
        process.start()
    start.set()
    taken = [queue.get(timeout=60) for _ in range(50)]
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert queue.empty()
    assert sorted(taken) == sorted({f"run-{number}" for number in range(50)})


DAMAGES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"{}",
    b'{"sites": 7}',
    b'{"name": "trial", "sites": []}',
    b'{"name": "trial", "study": "s", "study_id": "i", "state": "x", "sites": [], "more": 1}',
    b"\xff\xfe",
]


@pytest.mark.parametrize("content", DAMAGES)
def test_a_damaged_record_is_said_and_stops_no_other_run(runs, study, content):
    submit(runs, study, "good")
    submit(runs, study, "trial")
    (runs.folder / "trial" / RECORD).write_bytes(content)
    with pytest.raises(RunFolderError, match=r"run\.json: the record of this run is damaged"):
        runs.read("trial")
    with pytest.raises(RunFolderError, match="damaged"):
        runs.change("trial", "running", only={"submitted"})
    shown = {record.name: record for record in runs.all()}
    assert shown["good"].active
    assert (shown["trial"].state, shown["trial"].active) == ("failed", False)
    assert "damaged" in shown["trial"].why
    assert (runs.folder / "trial" / RECORD).read_bytes() == content


def test_a_study_that_was_changed_for_the_worse_is_said(runs, study):
    submit(runs, study, "trial")
    (runs.folder / "trial" / "study.toml").write_text("[study]")
    with pytest.raises(StudyError):
        runs.study("trial")


def test_what_a_runner_says_may_be_missing_or_torn(runs, study):
    submit(runs, study, "trial")
    assert runs.status("trial") == {}
    file = runs.folder / "trial" / STATUS
    file.write_text('{"round": 3}')
    assert runs.status("trial") == {"round": 3}
    for torn in ('{"rou', "", "[1]", "7"):
        file.write_text(torn)
        assert runs.status("trial") == {}


def test_a_record_is_json_that_a_person_can_read(runs, study):
    submit(runs, study, "trial", sites=("a",))
    content = json.loads((runs.folder / "trial" / RECORD).read_text())
    assert content["created"] == "2026-03-01T12:30:15+00:00"
    assert content["sites"] == ["a"]
