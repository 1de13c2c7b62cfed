import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wardround_shared.errors import StudyError
from wardround_shared.terminal import accept_every_letter
from wardround_simulations import cli, options
from wardround_simulations.closing import closing_lines

MEASURED = {"auroc": 0.9, "accuracy": 0.8, "n": 12}
SUMMARY = {
    "participation": {"sentence": "2 of 2 sites took part in 3 of 3 rounds."},
    "study": "small",
    "sites": 2,
    "rounds": 1,
    "dropped": [],
    "cohorts": {
        "Nord": {"set_aside": {"unreadable": 2}, "notes": []},
        "Solo": {"set_aside": {}, "notes": ["site Solo has nobody to validate on."]},
    },
    "notes": ["dates were ignored.", "site Solo has nobody to validate on."],
    "metrics": MEASURED,
    "per_site": {"Nord": MEASURED, "Solo": {"auroc": None, "n": 0}},
    "privacy": {"mechanism": "none", "delta": None, "unit": None, "epsilon": {}},
    "noise": "system",
    "secure_aggregation": False,
    "seconds": {"total": 1.0, "training": 0.5, "overhead": 0.5},
    "peak_rss_mb": 1.0,
    "run": "runs/small",
}


def invoke(*arguments):
    return CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)


class TestStudyName:
    def test_a_folder_of_the_same_name_does_not_hide_a_shipped_study(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("heart-disease").mkdir()
        assert (
            options.find_study("heart-disease") == options.studies_folder() / "heart-disease.toml"
        )

    def test_a_study_file_needs_no_toml_at_its_end(self, tmp_path):
        file = tmp_path / "study"
        file.touch()
        assert options.find_study(str(file)) == file

    def test_a_folder_is_no_study(self, tmp_path):
        with pytest.raises(StudyError, match="no such study file"):
            options.find_study(str(tmp_path))


@pytest.mark.parametrize("sites", ["abc", "10,", "0", "-1", "1.5", "²"])
def test_numbers_of_sites_that_are_none_are_a_wrong_option(sites):
    done = invoke("bench", "scale", "--sites", sites)
    assert done.exit_code == 2
    assert "--sites" in done.stderr
    assert "Traceback" not in done.output


class TestClosingLines:
    def test_a_note_is_read_once(self):
        lines = closing_lines(SUMMARY)
        for note in SUMMARY["notes"]:
            assert [line for line in lines if note in line] == [f"note: {note}"]

    def test_the_first_says_who_took_part(self):
        first = closing_lines(SUMMARY)[0]
        assert first.endswith(": 2 of 2 sites took part in 3 of 3 rounds.")

    def test_a_site_that_cannot_validate_says_so_instead_of_figures(self):
        lines = closing_lines(SUMMARY)
        assert "Solo: no validation examples" in lines
        assert "Nord: auroc 0.900, accuracy 0.800 (n = 12)" in lines


class TestInterrupted:
    def simulate(self, monkeypatch, study_file, run):
        monkeypatch.setattr("wardround_simulations.federation.simulate", run)
        done = invoke("simulate", str(study_file), "--backend", "inline")
        assert done.exit_code == 130
        return done.stderr.splitlines()

    def test_before_the_run_no_run_folder_is_named(self, monkeypatch, study_file):
        def run(*_, **__):
            raise KeyboardInterrupt

        assert self.simulate(monkeypatch, study_file, run) == ["interrupted."]

    def test_in_the_run_its_folder_is_named(self, monkeypatch, study_file):
        def run(_, observer, **__):
            observer.joined(["north"], [])
            raise KeyboardInterrupt

        said = self.simulate(monkeypatch, study_file, run)
        assert said == ["interrupted; the run folder says so."]

    def test_other_commands_name_none(self, monkeypatch):
        def evaluate(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("wardround_simulations.evaluation.evaluate_run", evaluate)
        done = invoke("evaluate", "somewhere")
        assert (done.exit_code, done.stderr) == (130, "interrupted.\n")


def test_a_letter_that_the_terminal_lacks_is_shown_by_its_number(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    accept_every_letter()
    cli.say("Köln")
    assert written.getvalue() == rb"K\xf6ln" + b"\n"


@pytest.fixture
def wardround(tmp_path, study_file, hospitals):
    """Start the command in a process of its own, with a site named Köln, on an ASCII terminal."""
    shutil.move(hospitals / "north.csv", hospitals / "Köln.csv")
    settings = {"PYTHONIOENCODING": "ascii", "WARDROUND_CACHE": str(tmp_path / "cache")}
    started = []

    def start(*more):
        options = ["--data", str(hospitals), "--out", str(tmp_path / "run"), "--backend", "inline"]
        options += ["--rounds", "1", "--set", "privacy.mechanism=none", *more]
        command = [sys.executable, "-m", "wardround_simulations", "simulate", str(study_file)]
        process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | settings,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_reader_who_takes_one_line_gets_the_whole_run(tmp_path, wardround):
    process = wardround()
    assert process.stdout.readline() == rb"3 sites: K\xf6ln, south, west" + b"\n"
    process.stdout.close()
    said = process.stderr.read()
    assert (process.wait(), said) == (0, b"")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "complete"
    assert (tmp_path / "run" / "report.html").is_file()


def test_json_has_standard_output_for_itself(wardround):
    stdout, stderr = wardround("--json").communicate()
    assert json.loads(stdout)["status"] == "complete"
    assert stderr.startswith(rb"3 sites: K\xf6ln")
