"""What the server's daemon keeps up: the SuperLink, who may connect, a runner for each run."""

import json
import os
import socket
import threading
import time
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from consortia import Consortium
from scripted_clock import ScriptedClock

from wardround_server.daemon import service as module
from wardround_server.daemon.overview import DAEMON
from wardround_server.daemon.service import Service
from wardround_server.enrolment.admission import revoke
from wardround_server.enrolment.rosters import node_keys
from wardround_server.flower.control import Door, NodeState, Operator
from wardround_shared.errors import EnrolmentError, RunError
from wardround_shared.study import load_study
from wardround_shared.supervision import NOT_STARTED, Backoff, alone, free_port
from wardround_shared.times import utc_now


class Child:
    """A process that ends when a test says so."""

    def __init__(self, program):
        self.name = program.name
        self.settings = dict(program.settings)
        self.descriptors = program.descriptors
        self.code = None
        self.asked = False

    def ended(self):
        return self.code

    def ask_to_end(self):
        self.asked = True

    def wait_for_end(self, seconds=10.0):
        self.code = -15 if self.code is None else self.code
        return self.code


class Flower:
    """The nodes that a SuperLink knows; it may be out of reach."""

    def __init__(self):
        self.registered = {}
        self.away = False

    def __call__(self, door):
        return self

    def __enter__(self):
        if self.away:
            raise httpx.ConnectError("away")
        return self

    def __exit__(self, *_):
        pass

    def nodes(self):
        return tuple(
            NodeState(node_id=number, public_key=key, online=True, activated="1")
            for key, number in self.registered.items()
        )

    def register(self, key):
        self.registered[key] = len(self.registered) + 1

    def unregister(self, number):
        (key,) = (key for key, known in self.registered.items() if known == number)
        del self.registered[key]


class Scene:
    def __init__(self, folder, study_file, monkeypatch):
        self.centre = Consortium(folder, address=f"localhost:{free_port()}")
        self.centre.now = utc_now()
        self.home = self.centre.home
        for name in ("north", "south"):
            self.centre.join(self.centre.site(name))
        self.study = load_study(study_file)
        self.children = []
        self.flower = Flower()
        self.clock = ScriptedClock()
        monkeypatch.setattr(module, "Child", self._child)
        monkeypatch.setattr(module, "Operator", self.flower)
        monkeypatch.setattr(module, "Backoff", lambda: Backoff(self.clock))
        monkeypatch.setattr(module, "_ENROL_SECONDS", 0.0)
        self.service = Service(self.home)
        self.runs = self.service._runs

    def _child(self, program):
        self.children.append(Child(program))
        return self.children[-1]

    def named(self, name):
        return [child for child in self.children if child.name == name]

    def submit(self, name):
        self.runs.submit(self.study, name=name, seed=0, now=utc_now())

    def look(self, times=1, seconds=1.0):
        for _ in range(times):
            self.clock.now += seconds
            self.service.look()


@pytest.fixture
def scene(tmp_path, study_file, monkeypatch):
    made = Scene(tmp_path, study_file, monkeypatch)
    yield made
    made.service.close()


def test_the_superlink_is_started_and_started_again(scene):
    scene.look(3)
    (first,) = scene.named("superlink")
    assert scene.service.serving
    first.code = -9
    scene.look()
    assert not scene.service.serving
    scene.look(2)
    assert len(scene.named("superlink")) == 2
    assert scene.service.serving
    assert scene.service.superlink_restarts == 1


def test_the_local_door_is_the_daemon_s_own_from_the_start_to_the_end(scene):
    """A port that is chosen first and opened later could be somebody else's by then."""
    scene.look()
    port = scene.service._door.port
    (first,) = scene.named("superlink")
    with socket.socket(fileno=os.dup(first.settings["local"])) as listening:
        assert listening.getsockname()[1] == port
    assert first.settings["local"] in first.descriptors
    first.code = -9
    for _ in range(4):  # while it is down, and when it is up again
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))
        scene.look()
    assert scene.named("superlink")[-1].settings["local"] == first.settings["local"]
    scene.service.close()
    socket.create_server(("127.0.0.1", port)).close()


def test_whoever_is_in_the_roster_may_connect_and_nobody_else(scene):
    scene.look()
    assert set(scene.flower.registered) == set(node_keys(scene.home, now=utc_now()))
    assert len(scene.flower.registered) == 2
    scene.flower.registered[b"a stranger's key\n"] = 77
    revoke(scene.home, "south", now=scene.centre.later())
    scene.look()
    assert set(scene.flower.registered) == set(node_keys(scene.home, now=utc_now()))
    assert len(scene.flower.registered) == 1


def test_a_clock_that_is_set_back_keeps_nobody_out(scene, monkeypatch):
    scene.look()
    monkeypatch.setattr(module, "_ENROL_SECONDS", 0.01)
    scene.look()
    past = utc_now() - timedelta(hours=1)

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return past

    monkeypatch.setattr(module, "datetime", Clock)
    scene.flower.registered[b"a stranger's key\n"] = 77
    time.sleep(0.02)
    scene.look()
    assert b"a stranger's key\n" not in scene.flower.registered


def test_the_public_door_is_the_daemon_s_own_too(scene):
    scene.look()
    port = scene.service._settings.listen.port
    (first,) = scene.named("superlink")
    (public,) = first.settings["public"]
    assert public in first.descriptors
    with socket.socket(fileno=os.dup(public)) as listening:
        assert listening.getsockname()[1] == port
    first.code = -9
    scene.look(4)
    socket.create_connection(("127.0.0.1", port)).close()
    assert scene.named("superlink")[-1].settings["public"] == [public]
    scene.service.close()
    socket.create_server(("127.0.0.1", port)).close()


def test_a_public_port_that_is_taken_is_said_in_one_sentence(scene, monkeypatch):
    monkeypatch.setattr(module, "_PORT_SECONDS", 0.1)
    port = scene.service._settings.listen.port
    said = rf"port {port}: .* \(Address already in use\); .* \[listen\] in server\.toml"
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(EnrolmentError, match=said),
    ):
        scene.service.run()
    assert scene.children == []


def test_a_port_that_is_let_go_in_a_moment_is_waited_for(scene):
    """By what is left of a daemon that was killed."""
    port = scene.service._settings.listen.port
    left = socket.create_server(("127.0.0.1", port))
    threading.Timer(0.3, left.close).start()
    assert scene.service._open_public()


@pytest.mark.parametrize(
    ("host", "said"),
    [("192.0.2.1", "Cannot assign requested address"), ("no.such.host.invalid", "not known|resol")],
)
def test_an_address_that_is_not_this_machine_s_is_said_in_one_sentence(host, said):
    with pytest.raises(EnrolmentError, match=said):
        module._listening_at(host, free_port())


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_certificate_that_is_missing_or_damaged_is_said_in_one_sentence(scene, content):
    if content is None:
        scene.home.certificate.unlink()
    else:
        scene.home.certificate.write_text(content)
    with pytest.raises(EnrolmentError, match=r"server\.pem"):
        scene.service.run()
    assert scene.children == []


def test_it_is_said_that_the_daemon_is_there_while_its_superlink_is_not(scene):
    scene.flower.away = True
    scene.look()
    (scene.home.folder / DAEMON).unlink()
    scene.named("superlink")[-1].code = 1
    scene.look(seconds=0.0)
    content = json.loads((scene.home.folder / DAEMON).read_text())
    assert content["serving"] is False
    assert content["pid"] == os.getpid()


def test_no_runner_is_started_before_it_is_known_who_may_connect(scene):
    scene.flower.away = True
    scene.submit("trial")
    scene.look(3)
    assert scene.named("runner trial") == []
    assert not scene.service.serving
    scene.flower.away = False
    scene.look()
    (runner,) = scene.named("runner trial")
    assert runner.settings["run"] == "trial"


def test_each_active_run_has_one_runner(scene):
    for name in ("one", "two", "done", "stopped"):
        scene.submit(name)
    scene.runs.change("done", "finished", only={"submitted"})
    scene.runs.change("stopped", "stopped", only={"submitted"})
    scene.look(5)
    assert sorted(child.name for child in scene.children) == [
        "runner one",
        "runner two",
        "superlink",
    ]


def test_a_runner_that_dies_is_started_again_after_longer_and_longer(scene):
    scene.submit("trial")
    scene.look()
    for _ in range(100):
        scene.named("runner trial")[-1].code = -9
        scene.look()
    started = len(scene.named("runner trial"))
    assert 4 < started < 20
    assert scene.service.runner_restarts == started


def died(scene, times, code=1):
    """The runner dies and is started again, so many times."""
    for _ in range(times):
        scene.named("runner trial")[-1].code = code
        scene.look()  # it has ended
        scene.look(30)  # and is there again, half a minute later


def test_a_run_whose_runner_dies_at_once_again_and_again_has_failed(scene):
    scene.submit("trial")
    scene.look()
    died(scene, 4)
    assert scene.runs.read("trial").active
    scene.named("runner trial")[-1].code = 1
    scene.look(100)
    record = scene.runs.read("trial")
    assert record.state == "failed"
    assert "5 times in a row" in record.why
    assert "the daemon's log" in record.why
    assert "resume trial" in record.why
    assert len(scene.named("runner trial")) == 5
    # Whoever mends it and resumes the run has as many attempts again.
    scene.runs.change("trial", "submitted", only={"failed"})
    scene.look()
    died(scene, 4)
    assert scene.runs.read("trial").active


@pytest.mark.parametrize("code", [0, -9, -15, NOT_STARTED])
def test_a_run_whose_runner_is_killed_goes_on(scene, code):
    scene.submit("trial")
    scene.look()
    died(scene, 20, code)
    assert scene.runs.read("trial").active


@pytest.mark.parametrize("what", ["rounds", "time", "superlink", "flower"])
def test_a_run_goes_on_that_gets_further_or_whose_server_is_in_trouble(scene, what):
    scene.submit("trial")
    scene.look()
    for number in range(20):
        if what == "rounds":
            (scene.runs.folder / "trial" / "rounds.jsonl").write_text("{}" * number)
        elif what == "time":
            scene.clock.now += 61
        elif what == "superlink":
            scene.named("superlink")[-1].code = -9
        else:
            scene.flower.away = True
        scene.named("runner trial")[-1].code = 1
        scene.look()
        scene.flower.away = False
        scene.look(30)
    assert scene.runs.read("trial").active


def test_a_failure_that_cannot_be_written_does_not_end_the_daemon(scene, monkeypatch):
    scene.submit("trial")
    scene.look()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scene.runs, "change", full)
    died(scene, 7)
    assert scene.runs.read("trial").active
    monkeypatch.undo()
    monkeypatch.setattr(module, "Child", scene._child)
    monkeypatch.setattr(module, "Operator", scene.flower)
    died(scene, 1)
    assert scene.runs.read("trial").state == "failed"


def test_a_run_that_has_ended_is_not_started_again(scene):
    scene.submit("trial")
    scene.look()
    scene.runs.change("trial", "finished", only={"submitted"})
    scene.named("runner trial")[0].code = 0
    scene.look(5)
    assert len(scene.named("runner trial")) == 1
    assert scene.service.runner_restarts == 0


def test_a_run_that_is_stopped_ends_its_runner_and_resumed_has_a_new_one(scene):
    scene.submit("trial")
    scene.look()
    (runner,) = scene.named("runner trial")
    scene.runs.change("trial", "stopped", only={"submitted"})
    scene.look()
    assert runner.asked
    runner.code = -15
    scene.look()
    scene.runs.change("trial", "submitted", only={"stopped"})
    scene.look()
    assert len(scene.named("runner trial")) == 2


def test_one_run_whose_record_is_damaged_stops_no_other(scene):
    """The daemon would not come up any more, and every run would stand still."""
    scene.submit("bad")
    scene.submit("good")
    scene.look()
    (scene.runs.folder / "bad" / "run.json").write_text("{")
    scene.look(2)
    for child in scene.children:
        if child.name.startswith("runner"):
            child.code = 1
    scene.look(3)
    assert len(scene.named("runner good")) == 2
    assert len(scene.named("runner bad")) == 1
    figures = {one.name: one.state for one in scene.service.state().runs}
    assert figures == {"bad": "failed", "good": "submitted"}


def test_what_it_says_of_itself_has_the_sites_and_no_secret(scene):
    scene.look(2)
    text = (scene.home.folder / DAEMON).read_text()
    content = json.loads(text)
    assert content["serving"]
    assert set(content["sites"]) == {"north", "south"}
    assert scene.service._door.token not in text


def test_the_end_of_the_daemon_ends_all(scene):
    scene.submit("trial")
    scene.look()
    scene.service.close()
    assert len(scene.children) == 2
    assert all(child.asked for child in scene.children)
    assert not scene.service.serving


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_is_told_no_token(scene, monkeypatch, name):
    """A hospital's proxy is for the way to the other side, never for this machine."""
    told = []

    class Listening(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append((self.server, self.headers["x-wardround-token"]))
            self.send_response(503)
            self.end_headers()

        def log_message(self, *_):
            pass

    servers = [HTTPServer(("127.0.0.1", 0), Listening) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy, ours = servers
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
    with alone(scene.home.folder), pytest.raises(RunError):
        scene.service.run()  # which sets what its children inherit
    try:
        with pytest.raises(httpx.HTTPError):
            Operator(Door(port=ours.server_port, token="secret")).nodes()
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
    assert told == [(ours, "secret")]


def test_a_second_daemon_is_refused(scene):
    with alone(scene.home.folder), pytest.raises(RunError, match="another daemon"):
        scene.service.run()
    assert scene.children == []
