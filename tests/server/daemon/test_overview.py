"""What a person is shown of a server, with and without its daemon."""

import json
import os
import re
from datetime import timedelta

import pytest
from consortia import Consortium

from wardround_server.daemon.overview import DAEMON, overview, print_overview
from wardround_server.daemon.runs import Runs
from wardround_server.enrolment.heard import note_heard
from wardround_server.run_folder import RunFolder
from wardround_shared.errors import RunFolderError
from wardround_shared.study import load_study
from wardround_shared.times import utc_now


@pytest.fixture
def centre(tmp_path):
    made = Consortium(tmp_path)
    made.join(made.site("north"))
    made.join(made.site("south"))
    return made


@pytest.fixture
def runs(centre, study_file):
    runs = Runs(centre.home.runs)
    runs.submit(load_study(study_file), name="trial", seed=0, now=utc_now())
    runs.change("trial", "running", only={"submitted"})
    return runs


def says(centre, *, ago=0.0, **changes):
    moment = utc_now() - timedelta(seconds=ago)
    content = {
        "serving": True,
        "sites": {"north": {"online": True, "since": moment.isoformat()}},
        "updated": moment.isoformat(),
    }
    (centre.home.folder / DAEMON).write_text(json.dumps(content | changes))


def shown(centre, capsys):
    print_overview(overview(centre.home))
    return capsys.readouterr().out


def online(centre):
    return {one["site"]: one["online"] for one in overview(centre.home)["sites"]}


def test_the_roster_that_a_site_is_known_to_have_is_shown(centre, capsys):
    note_heard(centre.home, {"north": 2, "stranger": 3})
    found = {one["site"]: one["roster_version"] for one in overview(centre.home)["sites"]}
    assert found == {"north": 2, "south": None}
    assert re.search(r"north.* 2 .*not connected", shown(centre, capsys))


def test_without_a_daemon_nobody_is_connected(centre, capsys):
    content = overview(centre.home)
    assert not content["serving"]
    assert not content["running"]
    assert content["roster_version"] == 3
    assert online(centre) == {"north": False, "south": False}
    assert content["runs"] == []
    out = shown(centre, capsys)
    assert "the daemon is not running; roster version 3" in out
    assert "There is no run yet." in out


def test_with_a_daemon_it_is_said_who_is_connected(centre, capsys):
    says(centre, ago=3)
    assert online(centre) == {"north": True, "south": False}
    out = shown(centre, capsys)
    assert "serving; roster version 3" in out
    assert out.count("not connected") == 1


def test_a_daemon_that_is_up_and_lets_nobody_in_is_not_said_to_be_down(centre, capsys):
    says(centre, serving=False, sites={})
    content = overview(centre.home)
    assert (content["running"], content["serving"]) == (True, False)
    out = shown(centre, capsys)
    assert "the daemon is running, but sites cannot connect yet" in out
    assert "not running" not in out


def test_what_a_dead_daemon_has_left_is_not_believed(centre, capsys):
    says(centre, ago=60)
    assert not overview(centre.home)["serving"]
    assert online(centre) == {"north": False, "south": False}
    assert "the daemon is not running" in shown(centre, capsys)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", "{}", '{"updated": 7}', '{"updated": "x"}', '{"updated": "2026-01-01"}'],
)
def test_what_a_daemon_has_half_written_is_not_believed(centre, text):
    (centre.home.folder / DAEMON).write_text(text)
    assert not overview(centre.home)["serving"]


def test_a_site_of_which_the_roster_knows_nothing_is_not_shown(centre):
    says(centre, sites={"stranger": {"online": True, "since": ""}})
    assert set(online(centre)) == {"north", "south"}


def test_a_run_says_its_round_and_whom_it_waits_for(centre, runs, capsys):
    ago = (utc_now() - timedelta(minutes=5)).isoformat()
    moved = (utc_now() - timedelta(minutes=2)).isoformat()
    RunFolder(runs.folder / "trial").write_json(
        "status.json",
        {
            "stage": "asking the sites",
            "round": 2,
            "rounds": 3,
            "attempt": 2,
            "since": ago,
            "waiting_for": {"north": "no answer yet", "south": "no answer yet"},
            "sites": {"north": {"stage": "training", "done": 3, "total": 0, "since": moved}},
            "missing": {"west": {"why": "it is silent", "since": ago}},
        },
    )
    out = shown(centre, capsys)
    assert "running, round 2 of 3, asking the sites, attempt 2" in out
    assert "training, moved 2 min ago" in out
    assert "outside: it is silent" in out
    assert out.count("5 min") == 3


def test_a_run_whose_runner_has_said_nothing_yet_is_shown(centre, runs, capsys):
    assert "trial (small, " in shown(centre, capsys)


def test_a_run_that_failed_says_why_and_no_stale_progress(centre, runs, capsys):
    RunFolder(runs.folder / "trial").write_json("status.json", {"waiting_for": {"north": "x"}})
    runs.change("trial", "failed", why="A sentence.", only={"running"})
    out = shown(centre, capsys)
    assert "A sentence." in out
    assert "waited for" not in out


def test_a_run_whose_record_is_damaged_hides_no_other(centre, runs, study_file, capsys):
    runs.submit(load_study(study_file), name="good", seed=0, now=utc_now())
    (runs.folder / "trial" / "run.json").write_text("{")
    out = shown(centre, capsys)
    assert "good (small" in out
    assert "damaged" in out


def test_a_run_whose_folder_cannot_be_read_is_shown(centre, runs, study_file, capsys, monkeypatch):
    """As whoever may not: for root there is no such folder."""
    runs.submit(load_study(study_file), name="good", seed=0, now=utc_now())
    (runs.folder / "begun").mkdir()
    stat, scandir = os.stat, os.scandir

    def closed(do):
        def checked(path, *arguments, **settings):
            if "trial" in str(path).rpartition("runs")[2] and str(path)[-5:] != "trial":
                raise PermissionError(13, "Permission denied", str(path))
            return do(path, *arguments, **settings)

        return checked

    def hidden(path):
        if str(path).endswith("trial"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "stat", closed(stat))
    monkeypatch.setattr(os, "scandir", hidden)
    found = {one["run"]: one["state"] for one in overview(centre.home)["runs"]}
    assert found == {"good": "submitted", "trial": "failed"}
    assert "trial: this folder cannot be read (Permission denied)" in shown(centre, capsys)


def test_a_folder_of_runs_that_cannot_be_read_is_not_one_without_runs(centre, monkeypatch):
    centre.home.runs.write_text("no folder")
    with pytest.raises(RunFolderError, match=r"cannot be read \(Not a directory\)"):
        overview(centre.home)


def test_what_a_site_says_of_itself_is_shown_as_it_is(centre, runs, capsys):
    """Names of stages come from sites: neither markup nor a terminal's commands are obeyed."""
    stage = "[red]x[/red]\x1b[2J"
    RunFolder(runs.folder / "trial").write_json(
        "status.json",
        {
            "waiting_for": {"north": "no answer yet"},
            "sites": {"north": {"stage": stage, "done": 1, "total": 0, "since": "\x1b[2J"}},
        },
    )
    out = shown(centre, capsys)
    assert "[red]x[/red]" in out
    assert "\x1b" not in out


def test_the_overview_is_json(centre, runs):
    assert json.loads(json.dumps(overview(centre.home), allow_nan=False))
