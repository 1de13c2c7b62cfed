"""The pair of processes of a site: both are started again when one of them ends."""

import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from consortia import Consortium
from scripted_clock import ScriptedClock

from wardround_client.daemon import service as module
from wardround_client.daemon.service import Service
from wardround_client.flower.tasks import Tasks
from wardround_shared.audit_log import verify
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

    def events(self):
        log = self.home.audit_log
        if not log.exists():
            return []
        assert not verify(log)
        lines = map(json.loads, log.read_text().splitlines())
        return [(line["event"], line.get("process")) for line in lines]


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
