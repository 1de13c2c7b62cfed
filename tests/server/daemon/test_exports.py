"""What a finished run gives to others: all of it, in a new folder, or nothing."""

import json
import shutil

import numpy as np
import pytest

from wardround_server.card import CARD
from wardround_server.daemon.exports import REPORT, export_run
from wardround_server.daemon.runs import Runs
from wardround_server.run_folder import MODEL, ROSTER, ROUNDS, STUDY, SUMMARY, RunFolder
from wardround_shared.errors import RunFolderError
from wardround_shared.study import load_study

SENTENCE = "2 of 3 sites took part in 5 of 5 rounds."
PARTICIPATION = {
    "sentence": SENTENCE,
    "per_site": {"east": {"rounds": 5, "why_not": {}}, "west": {"rounds": 3, "why_not": {"x": 2}}},
}


@pytest.fixture
def runs(tmp_path, study_file):
    from datetime import UTC, datetime

    runs = Runs(tmp_path / "runs")
    runs.submit(load_study(study_file), name="trial", seed=0, now=datetime(2026, 3, 1, tzinfo=UTC))
    runs.change("trial", "finished", only={"submitted"})
    folder = RunFolder(runs.folder / "trial")
    folder.write_json(
        SUMMARY,
        {
            "participation": PARTICIPATION,
            "metrics": {"accuracy": 0.123456, "n": 12},
            "software": "1.2.3",
        },
    )
    folder.append_line(ROUNDS, {"round": 1})
    folder.append_line(ROSTER, {"round": 1})
    folder.write_arrays(MODEL, {"p": np.zeros(3, np.float32)}, {"study": "s"})
    return runs


def refused(runs, out, match):
    with pytest.raises(RunFolderError, match=match):
        export_run(runs.folder, "trial", out)


def test_everything_is_there_and_its_first_line_says_who_took_part(runs, tmp_path):
    out = tmp_path / "new" / "result"
    assert export_run(runs.folder, "trial", out) == SENTENCE
    names = {STUDY, SUMMARY, ROUNDS, ROSTER, MODEL}
    assert {file.name for file in out.iterdir()} == names | {REPORT, CARD}
    for name in names:
        assert (out / name).read_bytes() == (runs.folder / "trial" / name).read_bytes()
    report = (out / REPORT).read_text().splitlines()
    assert report[0] == SENTENCE
    assert not any("Started from" in line for line in report)
    assert "| accuracy | 0.1235 |" in report
    assert "| west | 3 | x (2) |" in report
    assert any("dp-sgd, epsilon 8" in line for line in report)


def test_the_report_says_what_the_run_has_started_from(runs, tmp_path):
    folder = runs.folder / "trial"
    summary = json.loads((folder / SUMMARY).read_text())
    start = {"file": "w.pt", "sha256": "ab" * 32, "taken": 60, "fresh": ["output.weight"]}
    (folder / SUMMARY).write_text(json.dumps(summary | {"initial_weights": start}))
    export_run(runs.folder, "trial", tmp_path / "out")
    report = (tmp_path / "out" / REPORT).read_text()
    assert "Started from 60 arrays of w.pt" in report
    assert start["sha256"] in report


def test_checkpoints_and_what_the_daemon_needs_stay_where_they_are(runs, tmp_path):
    folder = runs.folder / "trial"
    for name in ("terms.json", "flower.json", "status.json", "checkpoints/sum"):
        (folder / name).write_text("{}")
    export_run(runs.folder, "trial", tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert not (tmp_path / "out" / "terms.json").exists()


@pytest.mark.parametrize("state", ["submitted", "running", "stopped", "failed"])
def test_a_run_that_has_not_finished_is_not_exported(runs, tmp_path, state):
    runs.change("trial", state, only={"finished"})
    refused(runs, tmp_path / "out", f"is {state}; it can be exported once finished")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", ["mkdir", "touch"])
def test_a_folder_that_is_there_is_left_as_it_is(runs, tmp_path, make):
    out = tmp_path / "out"
    getattr(out, make)()
    refused(runs, out, "exists already")
    assert not out.is_dir() or not list(out.iterdir())


@pytest.mark.parametrize("name", [STUDY, SUMMARY, ROUNDS, ROSTER, MODEL])
def test_a_file_that_is_missing_is_named_and_nothing_half_is_left(runs, tmp_path, name):
    (runs.folder / "trial" / name).unlink()
    refused(runs, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({"participation": {}})])
def test_a_damaged_summary_is_said(runs, tmp_path, text):
    (runs.folder / "trial" / SUMMARY).write_text(text)
    refused(runs, tmp_path / "out", "summary is damaged")
    assert not (tmp_path / "out").exists()


def test_a_damaged_model_is_said(runs, tmp_path):
    (runs.folder / "trial" / MODEL).write_bytes(b"garbage")
    refused(runs, tmp_path / "out", "model file is damaged")


@pytest.mark.parametrize("name", [STUDY, MODEL])
def test_a_full_disk_leaves_nothing_half(runs, tmp_path, monkeypatch, name):
    copy = shutil.copyfile

    def full(source, target):
        if source.name == name:
            target.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    refused(runs, tmp_path / "new" / "out", "No space left on device")
    assert not list((tmp_path / "new").iterdir())
    monkeypatch.undo()
    assert export_run(runs.folder, "trial", tmp_path / "new" / "out") == SENTENCE
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["out"]


def test_where_nothing_can_be_written_it_is_said(runs, tmp_path):
    (tmp_path / "file").touch()
    refused(runs, tmp_path / "file" / "out", "cannot be written")
