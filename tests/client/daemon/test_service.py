"""The pair of processes of a site: both are started again when one of them ends."""

import json
import os
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from consortia import Consortium
from scripted_clock import ScriptedClock
from typer.testing import CliRunner

from wardround_client.cli import app
from wardround_client.daemon import service as module
from wardround_client.daemon.endings import AN_HOUR, Endings
from wardround_client.daemon.service import Service
from wardround_client.flower.refusal import Refusal
from wardround_client.flower.tasks import Tasks
from wardround_shared.audit_log import AuditLog, verify
from wardround_shared.audit_log.sparing import HOUR
from wardround_shared.errors import EnrolmentError, LedgerError, PolicyError, RunError
from wardround_shared.supervision import RENEW, Backoff, alone


class Child:
    """A process that ends when a test says so."""

    def __init__(self, program):
        self.name = program.name
        self.settings = dict(program.settings)
        self.descriptors = program.descriptors
        self.command = program.module
        self.code = None
        self.asked = False

    def ended(self):
        return self.code

    def ask_to_end(self):
        self.asked = True

    def wait_for_end(self, seconds=10.0):
        self.code = -15 if self.code is None else self.code
        return self.code


def port_of(descriptor):
    with socket.socket(fileno=os.dup(descriptor)) as listening:
        return listening.getsockname()[1]


class Scene:
    def __init__(self, folder, monkeypatch):
        self.centre = Consortium(folder)
        self.home = self.centre.site("north")
        self.centre.join(self.home)
        self.children = []
        self.clock = ScriptedClock()
        monkeypatch.setattr(module, "Child", self._child)
        self.service = Service(self.home)
        self.service._pause = Backoff(self.clock)
        self.service._endings = Endings(AuditLog(self.home.audit_log), clock=self.clock)

    def _child(self, program):
        self.children.append(Child(program))
        return self.children[-1]

    @property
    def pair(self):
        return self.children[-2:]

    def look(self, times=1, seconds=0.0):
        for _ in range(times):
            self.clock.now += seconds
            self.service.look()

    def end(self, code, times=1, *, which=0):
        """So often one of them ends with this code, and both are started again."""
        for _ in range(times):
            self.look(2, seconds=20.0)
            self.pair[which].code = code
            self.look()

    def lines(self):
        log = self.home.audit_log
        if not log.exists():
            return []
        assert not verify(log)
        return [json.loads(line) for line in log.read_text().splitlines()]

    def events(self):
        return [(line["event"], line.get("process")) for line in self.lines()]

    def reasons(self):
        return [line["reason"] for line in self.lines() if line["event"] == "refused"]


@pytest.fixture
def scene(tmp_path, monkeypatch):
    made = Scene(tmp_path, monkeypatch)
    yield made
    made.service._close()


def test_both_processes_are_started_and_know_one_secret(scene):
    scene.look(3)
    node, worker = scene.children
    assert (node.name, worker.name) == ("supernode", "worker")
    assert node.settings["token"] == worker.settings["token"]
    assert len(node.settings["token"]) >= 40
    port = worker.settings["port"]
    assert port_of(node.settings["listening"]) == port
    assert node.settings["listening"] in node.descriptors
    assert node.settings["server"] == "localhost:9092"
    assert "server" not in worker.settings


def test_nobody_else_can_open_the_port_before_the_supernode_does(scene):
    """The worker would tell him the token, and take his requests."""
    scene.look()
    port = scene.pair[1].settings["port"]
    for _ in range(3):
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))
        scene.look()
    scene.pair[0].code = -9
    scene.look(2, seconds=1.0)
    assert len(scene.children) == 4
    assert port_of(scene.pair[0].settings["listening"]) == scene.pair[1].settings["port"]
    scene.service._close()
    socket.create_server(("127.0.0.1", scene.pair[1].settings["port"])).close()


@pytest.mark.parametrize("which", [0, 1])
def test_if_one_dies_both_are_started_again(scene, which):
    scene.look()
    first = scene.pair
    first[which].code = -9
    scene.look()
    assert all(child.code is not None for child in first)
    assert first[1 - which].asked
    scene.look(1, seconds=1.0)
    assert len(scene.children) == 4
    assert scene.pair[0].settings["token"] != first[0].settings["token"]
    assert scene.events() == [("restarted", first[which].name)]


def test_what_dies_again_and_again_is_started_less_often(scene):
    scene.look()
    for _ in range(200):
        scene.pair[0].code = 1
        scene.look(1, seconds=0.5)
    assert len(scene.children) < 2 * 20


def test_the_same_end_has_three_lines_an_hour(scene):
    scene.end(1, times=20)
    assert scene.events() == [("restarted", "supernode")] * AN_HOUR
    scene.end(1, which=1)
    assert scene.events()[-1] == ("restarted", "worker"), "another process, so another line"
    scene.end(2)
    assert scene.lines()[-1]["exit"] == 2, "another end, so another line"
    before = len(scene.lines())
    began = scene.clock.now
    scene.end(1, times=int(2 * HOUR / 40.0))
    hours = (scene.clock.now - began) / HOUR
    assert 0 < len(scene.lines()) - before <= AN_HOUR * (hours + 1)


def test_after_a_quiet_hour_an_end_is_news_again(scene):
    scene.end(1, times=5)
    scene.clock.now += HOUR
    scene.end(1, times=5)
    assert len(scene.lines()) == 2 * AN_HOUR


@pytest.mark.parametrize("refusal", list(Refusal))
def test_a_refusal_is_told_in_words_once_an_hour(scene, refusal):
    scene.end(int(refusal), times=20)
    assert scene.reasons() == [refusal.sentence]
    scene.clock.now += HOUR
    scene.end(int(refusal), times=20)
    assert scene.reasons() == [refusal.sentence] * 2


def test_another_reason_is_told_at_once(scene):
    scene.end(int(Refusal.DATES), times=4)
    scene.end(int(Refusal.NOT_ADMITTED), times=4)
    assert scene.reasons() == [Refusal.DATES.sentence, Refusal.NOT_ADMITTED.sentence]


def test_a_node_that_was_let_in_at_the_second_try_was_not_refused(scene):
    """A key that has just come into force is registered soon after."""
    scene.end(int(Refusal.NOT_ADMITTED))
    scene.end(1)
    scene.end(int(Refusal.NOT_ADMITTED))
    assert scene.reasons() == []
    assert scene.events() == [("restarted", "supernode")] * 3


@pytest.fixture
def signals():
    """What the daemon does with signals ends with the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    mask = os.umask(0o022)
    yield
    os.umask(mask)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_without_its_audit_log_the_site_ends_with_one_sentence(scene, monkeypatch):
    """Nothing may happen that no line tells of."""

    def ending(program):
        child = scene._child(program)
        file = scene.home.audit_log
        file.write_text(file.read_text().replace("started", "stopped"))
        child.code = 1
        return child

    monkeypatch.setattr(module, "Child", ending)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    result = CliRunner().invoke(app, ["start", "--home", str(scene.home.folder)])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "a traceback"
    said = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert "keep the file as it is" in said[0]
    assert len(scene.children) == 2
    assert all(child.code is not None for child in scene.children)


@pytest.mark.parametrize("other", [None, 1, 0])
def test_a_worker_that_asks_to_be_renewed_is_no_fault(scene, other):
    """The node may have noticed its end first."""
    scene.look()
    scene.pair[0].code, scene.pair[1].code = other, RENEW
    scene.look()
    scene.look()
    assert len(scene.children) == 4, "it was not started at once"
    assert scene.events() == []


def test_the_end_of_the_daemon_ends_both(scene):
    scene.look()
    scene.service._close()
    assert all(child.asked for child in scene.children)
    assert scene.service._pair == ()


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
            Tasks(port=ours.server_port, token="secret").take()
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
    assert told == [(ours, "secret")]


def test_a_second_daemon_is_refused(scene):
    with alone(scene.home.folder), pytest.raises(RunError, match="another daemon"):
        scene.service.run()
    assert scene.children == []


def test_a_site_that_has_not_joined_is_not_started(scene):
    with pytest.raises(EnrolmentError, match="has not joined"):
        Service(scene.centre.site("new"))


def test_a_faulty_policy_or_ledger_is_said_before_anything_is_started(scene):
    scene.home.policy.write_text("[rules")
    with pytest.raises(PolicyError):
        Service(scene.home)
    scene.home.policy.write_text("")
    for file in (scene.home.folder / "ledger").glob("*"):
        file.write_bytes(b"")
    with pytest.raises(LedgerError):
        Service(scene.home)
    assert scene.children == []
