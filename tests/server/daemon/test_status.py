"""What a runner says of itself: who is waited for, since when, and what goes into the audit log."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from scripted_clock import ScriptedClock

from wardround_server.daemon import status as module
from wardround_server.daemon.status import Status
from wardround_server.rounds import Dropped, RosterLine
from wardround_server.run_folder import RunFolder
from wardround_shared.audit_log import AuditLog, verify
from wardround_shared.delivery import Working


class Scene:
    def __init__(self, folder, monkeypatch):
        self.folder = RunFolder.create(folder / "run")
        self.log = folder / "audit.jsonl"
        self.clock = ScriptedClock()
        monkeypatch.setattr(module, "_now", self.time)
        self.status = Status(
            self.folder, run="run-1", rounds=5, audit=AuditLog(self.log), clock=self.clock
        )

    def time(self):
        began = datetime(2026, 3, 1, tzinfo=UTC)
        return (began + timedelta(seconds=self.clock.now - 1000)).isoformat(timespec="seconds")

    @property
    def said(self):
        return json.loads((self.folder.path / "status.json").read_text())

    @property
    def events(self):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(line["event"], line.get("site")) for line in map(json.loads, lines)]


@pytest.fixture
def scene(tmp_path, monkeypatch):
    made = Scene(tmp_path, monkeypatch)
    yield made
    assert not made.log.exists() or not verify(made.log)


def opened(scene, number=1, attempt=1, sites=("east", "west")):
    scene.status.opened(number, attempt, sites)


def test_a_round_says_whom_it_waits_for_until_he_has_answered(scene):
    opened(scene, 2)
    assert scene.said["waiting_for"] == dict.fromkeys(("east", "west"), "no answer yet")
    assert (scene.said["round"], scene.said["rounds"], scene.said["attempt"]) == (2, 5, 1)
    scene.status.answered(2, "east", "")
    assert list(scene.said["waiting_for"]) == ["west"]


def test_progress_is_told_by_the_names_of_sites(scene):
    scene.status.known({7: "east"})
    opened(scene)
    scene.clock.now += 5
    scene.status.progress(7, Working(stage="training", done=250, total=1000))
    scene.status.progress(8, Working(stage="loading", done=0, total=0))
    scene.clock.now += 5
    scene.status.progress(7, Working(stage="training", done=500, total=1000))
    assert scene.said["sites"]["east"]["done"] == 500
    assert scene.said["sites"]["node 8"]["stage"] == "loading"
    scene.status.answered(1, "east", "")
    assert "east" not in scene.said["sites"]


def test_progress_does_not_write_the_file_at_each_word(scene, monkeypatch):
    opened(scene)
    written = []
    write = scene.folder.write_json
    monkeypatch.setattr(scene.folder, "write_json", lambda *a: (written.append(1), write(*a)))
    for _ in range(1000):
        scene.clock.now += 0.01
        scene.status.progress(1, Working(stage="training", done=1, total=10))
    assert 5 <= len(written) <= 11


def test_who_is_missing_and_who_comes_back_is_said_and_logged(scene):
    scene.status.moved({"east": "no answer"}, {})
    since = scene.said["missing"]["east"]["since"]
    scene.clock.now += 60
    opened(scene)
    assert scene.said["missing"]["east"] == {"why": "no answer", "since": since}
    scene.status.moved({}, {"east": "", "west": ""})
    assert scene.said["missing"] == {}
    assert scene.events == [("dropped", "east"), ("returned", "east")]


def test_a_pause_says_since_when_and_is_logged_once(scene):
    """While a run waits it is told so again and again."""
    opened(scene)
    scene.clock.now += 100
    began = scene.time()
    for _ in range(5):
        scene.status.waiting(1, {"east": "not connected"}, "1 of 2 sites are there.")
        scene.clock.now += 60
    assert scene.said["stage"] == "paused"
    assert scene.said["since"] == began
    assert scene.said["why"] == "1 of 2 sites are there."
    assert scene.said["waiting_for"] == {"east": "not connected"}
    assert [event for event, _ in scene.events] == ["paused"]
    opened(scene, attempt=2)
    assert "why" not in scene.said
    assert scene.said["since"] == scene.time()
    scene.status.waiting_outside({"west": "silent"})
    assert [event for event, _ in scene.events] == ["paused", "paused"]


def test_a_round_that_is_closed_leaves_its_metrics_and_a_line(scene):
    opened(scene, 3)
    line = RosterLine(
        round=3, invited=("east", "west"), trained=("east",), aggregated=("east",), dropped=()
    )
    scene.status.closed(line, {"accuracy": 0.5}, 1.25)
    assert scene.said["metrics"] == {"accuracy": 0.5}
    assert scene.said["waiting_for"] == {}
    assert scene.events == [("round", None)]


def test_who_was_absent_at_the_beginning_is_missing(scene):
    scene.status.joined(["east"], [Dropped(site="west", why="not approved")])
    assert scene.said["missing"]["west"]["why"] == "not approved"


def test_a_status_that_cannot_be_written_stops_no_run(scene):
    (scene.folder.path / "status.json").mkdir()
    opened(scene)
    scene.status.stage("finished")


@pytest.mark.parametrize(
    "why", ["", "a\nb", "x" * 5000, "\x1b[2J", "/home/patient/file", "ä" * 400]
)
def test_whatever_a_site_says_of_itself_the_log_stays_sound(scene, why):
    """The reason comes from the site: it may be anything."""
    scene.status.moved({"east": why}, {})
    scene.status.waiting(1, {"east": why}, "Too few sites.")
    assert scene.events[0] == ("dropped", "east")
