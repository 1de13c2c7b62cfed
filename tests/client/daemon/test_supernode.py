"""The id that the server gave a node: kept whole, and given back before another is asked for."""

import ssl
from types import SimpleNamespace

import httpx
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supernode.fleet_http_client import FleetHttpClient

from wardround_client import durable
from wardround_client.flower.refusal import Refusal
from wardround_client.flower.supernode import _client_class


def refused(status):
    request = httpx.Request("POST", "https://server/")
    response = httpx.Response(status, request=request)
    return httpx.HTTPStatusError(str(status), request=request, response=response)


class Server:
    """Knows at most one node of this key at a time."""

    def __init__(self, monkeypatch):
        self.next, self.active, self.known, self.admitted = 41, None, [], True
        monkeypatch.setattr(FleetHttpClient, "ActivateNode", self._activate)
        monkeypatch.setattr(FleetHttpClient, "DeactivateNode", self._deactivate)

    def _activate(self, *_):
        if not self.admitted or self.active is not None:
            raise refused(412)
        self.next += 1
        self.active = self.next
        return SimpleNamespace(node_id=self.active)

    def _deactivate(self, request):
        if not self.admitted:
            raise refused(401)
        assert request.node_id == self.active
        self.active = None


@pytest.fixture
def server(monkeypatch):
    return Server(monkeypatch)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "node.id"


@pytest.fixture
def client(file):
    made = _client_class(SimpleNamespace(node_id=file))
    return made.__new__(made)


def activate(client):
    return client.ActivateNode(ActivateNodeRequest()).node_id


def test_the_id_is_kept(server, client, file):
    assert activate(client) == 42
    assert file.read_text() == "42"


def test_a_connection_that_the_server_takes_for_alive_is_ended_first(server, client, file):
    """The process was killed; another minute without the site would be lost."""
    activate(client)
    assert activate(client) == 43
    assert file.read_text() == "43"


def test_without_an_id_a_refusal_is_a_refusal(server, client, file):
    server.admitted = False
    with pytest.raises(SystemExit) as ended:
        activate(client)
    assert ended.value.code == Refusal.NOT_ADMITTED
    assert not file.exists()


def test_a_site_that_was_revoked_hears_why_it_is_refused_first(server, client, file):
    activate(client)
    server.admitted = False
    with pytest.raises(SystemExit) as ended:
        activate(client)
    assert ended.value.code == Refusal.NOT_ADMITTED
    assert file.read_text() == "42"


def test_a_crash_while_it_is_written_leaves_the_one_before(server, client, file, monkeypatch):
    """Half an id would end another site's connection, or none."""
    activate(client)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(durable.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        activate(client)
    assert file.read_text() == "42"


# --- why it was refused --------------------------------------------------------------------------


def distrusted(code):
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_code = code
    return error


def failing(below):
    """As httpx has it: the error of the TLS library lies below its own."""
    try:
        try:
            raise below
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
    except httpx.ConnectError as error:
        return error


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (failing(distrusted(19)), Refusal.ISSUER),
        (failing(distrusted(20)), Refusal.ISSUER),
        (failing(distrusted(10)), Refusal.DATES),
        (failing(distrusted(9)), Refusal.DATES),
        (failing(distrusted(62)), Refusal.HOST),
        (failing(distrusted(64)), Refusal.HOST),
        (failing(ssl.SSLError("wrong version number")), Refusal.NO_TLS),
        (httpx.ProxyError("407 Proxy Authentication Required"), Refusal.PROXY),
        (refused(412), Refusal.NOT_ADMITTED),
        (refused(401), Refusal.SIGNATURE),
        (refused(404), Refusal.NO_SERVER),
    ],
)
def test_the_exit_code_says_why_it_was_refused(client, monkeypatch, error, refusal):
    def activate_(*_):
        raise error

    monkeypatch.setattr(FleetHttpClient, "ActivateNode", activate_)
    with pytest.raises(SystemExit) as ended:
        activate(client)
    assert Refusal.of_exit(ended.value.code) is refusal
    assert refusal.sentence.endswith(".")


@pytest.mark.parametrize(
    "error",
    [
        failing(ConnectionRefusedError("nobody there")),
        failing(ssl.SSLEOFError("cut off")),
        httpx.ReadTimeout("slow"),
        refused(503),
        refused(429),
    ],
)
def test_what_may_be_better_next_time_is_no_refusal(client, monkeypatch, error):
    def activate_(*_):
        raise error

    monkeypatch.setattr(FleetHttpClient, "ActivateNode", activate_)
    with pytest.raises(type(error)):
        activate(client)


@pytest.mark.parametrize("code", [0, 1, 3, 75, -9, 255])
def test_other_ends_are_no_refusals(code):
    assert Refusal.of_exit(code) is None
