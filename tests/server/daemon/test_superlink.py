"""A real SuperLink on loopback: what its two doors let in, and what stays outside."""

import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from consortia import Consortium
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from wardround_server.daemon.runner import _task_of
from wardround_server.daemon.service import Service
from wardround_server.enrolment.renewal import renew_server
from wardround_server.enrolment.rosters import current_roster
from wardround_server.flower import superlink
from wardround_server.flower.control import Door, Operator
from wardround_shared.consortium.fields import node_key_pem
from wardround_shared.supervision import Child, free_port


class Server:
    """The SuperLink of a new server home, as the daemon starts it."""

    def __init__(self, folder):
        self.port = free_port()
        self.centre = Consortium(folder, address=f"localhost:{self.port}")
        self.centre.now = datetime.now(UTC)
        # As the daemon starts it.
        self.service = Service(self.centre.home)
        self.local, self.token = self.service._door.port, self.service._door.token
        self.child = Child(self.service._superlink_program())
        self.wait()

    def wait(self, seconds=60):
        end = time.monotonic() + seconds
        while True:  # both ports are open already
            assert self.child.ended() is None, "the SuperLink has ended"
            assert time.monotonic() < end, "the SuperLink does not serve"
            try:
                self.serial()
                break
            except OSError:
                time.sleep(0.1)

    def trusting(self):
        return ssl.create_default_context(cafile=str(self.centre.home.authorities))

    def public(self, path, *, method="POST", **settings):
        with httpx.Client(verify=self.trusting(), trust_env=False) as client:
            return client.request(method, f"https://localhost:{self.port}{path}", **settings)

    def inside(self, path, **headers):
        with httpx.Client(trust_env=False) as client:
            return client.post(f"http://127.0.0.1:{self.local}{path}", headers=headers)

    def raw(self, text):
        """The status line that a request gets which no client would send."""
        plain = socket.create_connection(("localhost", self.port), 10)
        with self.trusting().wrap_socket(plain, server_hostname="localhost") as opened:
            opened.sendall(text)
            return opened.recv(4096).split(b"\r\n")[0]

    def serial(self):
        pem = ssl.get_server_certificate(("127.0.0.1", self.port), timeout=5)
        return x509.load_pem_x509_certificate(pem.encode()).serial_number


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("superlink"))
    yield made
    made.child.ask_to_end()
    assert made.child.wait_for_end(20) == 0
    made.service.close()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/openapi.json",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/runtime/push-messages",
        "//v1/fleet/activate-node",
        "/V1/fleet/activate-node",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/%2e%2e%2fcontrol%2fstart-run",
        "/v1/fleet/..;/control/start-run",
        "/v1/fleet//v1/control/start-run",
    ],
)
def test_nothing_but_the_fleet_s_api_is_at_the_public_port(server, path):
    request = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    assert server.raw(request.encode()) == b"HTTP/1.1 404 Not Found"
    assert server.public(path, content=b"").status_code == 404


def test_the_token_does_not_open_the_public_port_further(server):
    headers = {"x-wardround-token": server.token}
    assert server.public("/v1/control/list-nodes", content=b"", headers=headers).status_code == 404


def test_a_request_that_no_admitted_node_has_signed_is_refused(server):
    from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
    from flwr.proto.node_pb2 import Node

    key = b"-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n"
    for path, request in (
        ("activate-node", ActivateNodeRequest(public_key=key, heartbeat_interval=30)),
        ("pull-messages", PullMessagesRequest(node=Node(node_id=1))),
    ):
        found = server.public(
            f"/v1/fleet/{path}",
            content=request.SerializeToString(),
            headers={"content-type": "application/protobuf"},
        )
        assert found.status_code in {401, 403}, (path, found.status_code, found.text)


@pytest.mark.parametrize(
    "headers",
    [
        b"",
        b"Content-Length: 16777217\r\n",
        b"Content-Length: 99999999999999999999999\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: x\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        (
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 0\r\n"
        ),
    ],
    ids=lambda text: text.decode()[:40],
)
def test_a_body_of_unknown_or_endless_length_is_not_read(server, headers):
    method = b"GET" if b"websocket" in headers else b"POST"
    start = method + b" /v1/fleet/activate-node HTTP/1.1\r\nHost: localhost\r\n" + headers
    status = server.raw(start + b"\r\n").split()[1]
    assert status in {b"400", b"403", b"404", b"405", b"413"}


def test_old_tls_and_plain_http_are_not_spoken(server):
    context = server.trusting()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    plain = socket.create_connection(("localhost", server.port), 10)
    with pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")
    plain.close()
    with pytest.raises(httpx.HTTPError), httpx.Client(trust_env=False) as client:
        client.get(f"http://localhost:{server.port}/v1/fleet/")


@pytest.mark.parametrize("headers", [{}, {"x-wardround-token": ""}, {"x-wardround-token": "other"}])
def test_without_the_token_the_local_door_is_shut(server, headers):
    for path in ("/", "/v1/control/list-nodes", "/v1/runtime/acquire-task", "/v1/fleet/x"):
        assert server.inside(path, **headers).status_code == 403


def test_the_local_door_is_on_loopback_only(server):
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    local = [line[1] for line in listening if line[3] == "0A"]
    assert f"0100007F:{server.local:04X}" in local
    assert f"00000000:{server.local:04X}" not in local


def test_who_knows_the_token_registers_nodes_and_starts_runs_without_code(server):
    server.centre.join(server.centre.site("north"))
    (line,) = current_roster(server.centre.home).lines
    key = node_key_pem(line.node_key)
    with Operator(Door(port=server.local, token=server.token)) as operator:
        node = operator.register(key)
        (found,) = operator.nodes()
        assert (found.node_id, found.online) == (node, False)
        assert found.public_key.strip() == key.strip()
        run = operator.start_run()
        taken = operator.acquire()
        assert taken is not None
        assert taken[0] == run
        assert operator.acquire() is None
        operator.finish(taken[1], status="completed")
        operator.unregister(node)
        assert operator.nodes() == ()


# --- nodes -----------------------------------------------------------------------------------


class Node:
    """A node of Flower's with a key of its own, which may sign as it likes."""

    def __init__(self, server, *, key=None, signing=None):
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes
        from flwr.supernode.fleet_http_client import FleetHttpClient
        from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

        self.key = key or ec.generate_private_key(ec.SECP384R1())
        self.pem = public_key_to_bytes(self.key.public_key())
        self.id = 0
        self.client = FleetHttpClient.from_server_address(
            f"localhost:{server.port}",
            insecure=False,
            root_certificates=server.centre.home.authorities.read_bytes(),
            interceptors=[NodeAuthHttpInterceptor(signing or self.key, self.key.public_key())],
        )

    def activate(self):
        from flwr.proto.fleet_pb2 import ActivateNodeRequest

        request = ActivateNodeRequest(public_key=self.pem, heartbeat_interval=30)
        self.id = self.client.ActivateNode(request).node_id

    def push_object(self, size):
        """The status of the answer to an upload of so many bytes."""
        from flwr.proto.message_pb2 import PushObjectRequest
        from flwr.proto.node_pb2 import Node as Named

        request = PushObjectRequest(
            node=Named(node_id=self.id), run_id=1, object_id="a" * 64, object_content=b"x" * size
        )
        try:
            self.client.PushObject(request)
        except httpx.HTTPStatusError as error:
            return error.response.status_code
        return 200


@pytest.fixture
def nodes(server):
    """Makes nodes that the server knows."""
    made = []
    with Operator(Door(port=server.local, token=server.token)) as operator:

        def known():
            node = Node(server)
            made.append((node, operator.register(node.pem)))
            node.activate()
            return node

        yield known
        for node, registered in made:
            operator.unregister(registered)
            node.client.close()


SMALL, LARGE = 1000, 100_000


def test_a_large_body_is_read_of_a_node_that_is_registered_and_of_nobody_else(
    server, nodes, monkeypatch
):
    known, stranger = nodes(), Node(server)
    assert known.push_object(LARGE) not in {401, 413}
    assert stranger.push_object(LARGE) == 401
    impostor = Node(server, key=known.key, signing=stranger.key)
    impostor.id = known.id
    assert impostor.push_object(LARGE) == 401
    from flwr.supernode import node_auth_http_interceptor as signing

    monkeypatch.setattr(signing, "now", lambda: datetime.now(UTC) - timedelta(hours=1))
    assert known.push_object(LARGE) == 401
    monkeypatch.undo()
    assert known.push_object(LARGE) not in {401, 413}
    stranger.client.close()
    impostor.client.close()


@pytest.mark.parametrize(
    "headers",
    [
        b"",
        b"flwr-public-key: x\r\nflwr-signature: x\r\nflwr-timestamp: x\r\n",
        b"flwr-public-key: \xff\r\nflwr-signature: eA==\r\nflwr-timestamp: 2026-01-01\r\n",
    ],
)
def test_of_strangers_no_large_body_is_read(server, headers):
    """The answer comes before the body; otherwise this would wait for it without end."""
    request = (
        b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/protobuf\r\n" + headers
    )
    status = server.raw(request + b"Content-Length: 10000000\r\n\r\n")
    assert status == b"HTTP/1.1 401 Unauthorized"


def test_a_node_that_was_unregistered_sends_nothing_large_any_more(server):
    node = Node(server)
    with Operator(Door(port=server.local, token=server.token)) as operator:
        registered = operator.register(node.pem)
        node.activate()
        assert node.push_object(LARGE) not in {401, 413}
        operator.unregister(registered)
    assert node.push_object(LARGE) == 401
    node.client.close()


def test_a_node_answers_in_its_own_name_only(server, nodes):
    """Else one hospital could answer for another, and the sum would be told to hold his part."""
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
    from flwr.proto.node_pb2 import Node as Named
    from flwr.supercore.inflatable.inflatable_object import get_object_tree

    from wardround_server.flower.grid import RunGrid

    honest, evil = nodes(), nodes()
    door = Door(port=server.local, token=server.token)
    with Operator(door) as operator:
        token = _task_of(operator, operator.start_run())
        grid = RunGrid(door, token)
        try:
            content = RecordDict({"c": ConfigRecord({"n": 1})})
            requests = [(node.id, "train", content) for node in (honest, evil)]
            grid.send(requests, group="1", ttl=600.0)

            def push(sender, source, reply_to):
                pulled = sender.client.PullMessages(
                    PullMessagesRequest(node=Named(node_id=sender.id))
                ).messages_list
                if pulled:
                    sender.request = message_from_proto(pulled[0])
                    sender.request.content = RecordDict()
                message = Message(RecordDict(), reply_to=sender.request)
                about = message.metadata.__dict__
                about["_src_node_id"], about["_message_id"] = source, message.object_id
                if reply_to is not None:
                    about["_reply_to_message_id"] = reply_to
                    about["_message_id"] = message.object_id
                return sender.client.PushMessages(
                    PushMessagesRequest(
                        node=Named(node_id=sender.id),
                        messages_list=[message_to_proto(message)],
                        message_object_trees=[get_object_tree(message)],
                    )
                )

            for source, reply_to in ((honest.id, None), (1, None), (evil.id, "")):
                with pytest.raises(httpx.HTTPStatusError):
                    push(evil, source, reply_to)
            for node in (honest, evil):
                assert push(node, node.id, None).session_id
        finally:
            grid.close()
            operator.finish(token, status="completed")


def test_a_bundle_that_is_sent_to_sites_holds_no_code():
    import io
    import zipfile

    from wardround_server.flower.control import _bundle

    assert _bundle() == _bundle()
    assert zipfile.ZipFile(io.BytesIO(_bundle())).namelist() == ["pyproject.toml"]


def test_a_renewed_certificate_is_taken_without_a_restart(server):
    before, pid = server.serial(), server.child.pid
    facts = renew_server(server.centre.home, now=datetime.now(UTC))
    end = time.monotonic() + 3 * superlink._RELOAD_SECONDS
    while server.serial() == before:
        assert time.monotonic() < end, "the old certificate is still shown"
        time.sleep(0.2)
    assert f"{server.serial():x}" == facts.serial.lower().replace(":", "").lstrip("0")
    assert server.public("/v1/control/start-run", content=b"").status_code == 404
    assert (server.child.ended(), server.child.pid) == (None, pid)


def test_what_dead_tasks_leave_is_looked_for_once_a_second(monkeypatch):
    """Flower looks with every request, at the price of two writings."""
    looked, now = [], [1000.0]
    state = superlink.SqlLinkState
    monkeypatch.setattr(state, "_cleanup_expired_task_tokens", looked.append)
    monkeypatch.setattr(state, "store_traffic", None)
    monkeypatch.setattr(superlink.time, "monotonic", lambda: now[0])
    superlink._less_to_write()
    one = object.__new__(state)
    for _ in range(5):
        one._cleanup_expired_task_tokens()
    assert looked == [one]
    now[0] += 1.0
    one._cleanup_expired_task_tokens()
    assert looked == [one, one]
    one.store_traffic(1, bytes_sent=0, bytes_recv=1)
