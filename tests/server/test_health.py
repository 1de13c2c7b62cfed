"""gRPC health as clients see it: with raw bytes, and with the protocol's own generated code."""

import socket
import subprocess
import sys
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from wardround_server.daemon.health import SERVICE, ask_health, main, serve_health
from wardround_server.enrolment.settings import settings_text
from wardround_shared.errors import EnrolmentError

CHECK, WATCH = f"/{SERVICE}/Check", f"/{SERVICE}/Watch"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
OTHER_SERVICE = b"\x0a\x05other"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Daemon:
    """A health server whose state a test changes."""

    def __init__(self):
        self.up = True
        self.port = free_port()
        self.server = serve_health("127.0.0.1", self.port, lambda: self.up)

    def channel(self):
        return grpc.insecure_channel(f"127.0.0.1:{self.port}")


@pytest.fixture
def daemon():
    made = Daemon()
    yield made
    made.server.stop(0).wait()


@pytest.fixture
def channel(daemon):
    with daemon.channel() as opened:
        yield opened


@pytest.mark.parametrize("request_", [b"", b"\x0a\x00"], ids=["left-out", "empty"])
def test_the_whole_server_is_asked_for_by_an_empty_name(daemon, channel, request_):
    check = channel.unary_unary(CHECK)
    assert check(request_, timeout=5) == SERVING
    daemon.up = False
    assert check(request_, timeout=5) == NOT_SERVING


@pytest.mark.parametrize("request_", [OTHER_SERVICE, b"\x0a", b"\xff" * 40], ids=repr)
def test_an_unknown_service_is_not_found(channel, request_):
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(CHECK)(request_, timeout=5)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_protocols_own_client_understands(daemon, channel):
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    daemon.up = False
    first = next(stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=5))
    assert first.status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_watch_tells_each_change_once(daemon, channel):
    seen, watching = [], channel.unary_stream(WATCH)(b"", timeout=20)
    for status in watching:
        seen.append(status)
        daemon.up = not daemon.up
        if len(seen) == 3:
            watching.cancel()
            break
    assert seen == [SERVING, NOT_SERVING, SERVING]


def test_watch_says_that_a_service_is_unknown_and_goes_on(channel):
    watching = channel.unary_stream(WATCH)(OTHER_SERVICE, timeout=1.2)
    assert next(watching) == SERVICE_UNKNOWN
    with pytest.raises(grpc.RpcError) as ended:
        next(watching)
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_watchers_cannot_keep_others_from_checking(channel):
    def watch():
        return channel.unary_stream(WATCH)(b"", timeout=20)

    watching = [watch() for _ in range(4)]
    assert [next(one) for one in watching] == [SERVING] * 4
    with pytest.raises(grpc.RpcError) as refused:
        next(watch())
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert channel.unary_unary(CHECK)(b"", timeout=5) == SERVING
    for one in watching:
        one.cancel()
    assert eventually(lambda: next(watch()) == SERVING)


def eventually(holds, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if holds():
                return True
        except grpc.RpcError:
            time.sleep(0.1)
    return False


WATCHED_UNTIL_THE_END = """
import sys, grpc
from wardround_server.daemon.health import serve_health
port = int(sys.argv[1])
server = serve_health("127.0.0.1", port, lambda: True)
channel = grpc.insecure_channel(f"127.0.0.1:{port}")
watching = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
next(watching)
server.stop(0)
"""


def test_a_daemon_that_is_watched_can_end():
    command = [sys.executable, "-c", WATCHED_UNTIL_THE_END, str(free_port())]
    assert subprocess.run(command, timeout=30, check=False).returncode == 0


def test_an_error_while_asking_is_no_serving():
    def broken():
        raise RuntimeError

    port = free_port()
    server = serve_health("127.0.0.1", port, broken)
    assert not ask_health("127.0.0.1", port)
    server.stop(0).wait()


def test_a_port_that_is_taken_is_refused_in_words(daemon):
    with pytest.raises(EnrolmentError, match=rf"127\.0\.0\.1:{daemon.port}.*\[health\]"):
        serve_health("127.0.0.1", daemon.port, lambda: True)


@pytest.fixture
def home(tmp_path, daemon, monkeypatch):
    monkeypatch.setenv("WARDROUND_SERVER_HOME", str(tmp_path))
    text = settings_text(address="fl.example.org:9092", health_port=daemon.port)
    (tmp_path / "server.toml").write_text(text, encoding="utf-8")
    return tmp_path


def test_the_check_of_a_container_asks_the_port_in_the_settings(daemon, home):
    main()
    daemon.up = False
    with pytest.raises(SystemExit, match="no daemon serves here"):
        main()


@pytest.mark.usefixtures("home")
def test_the_check_of_a_container_ends_with_exit_code_0_or_1(daemon):
    command = [sys.executable, "-m", "wardround_server.daemon.health"]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
    daemon.up = False
    assert subprocess.run(command, timeout=60, check=False, stderr=-3).returncode == 1


def test_a_daemon_that_listens_everywhere_is_asked_at_the_loopback(daemon, home):
    file = home / "server.toml"
    settings = file.read_text(encoding="utf-8")
    there = f'host = "127.0.0.1"\nport = {daemon.port}'
    assert there in settings
    everywhere = there.replace("127.0.0.1", "0.0.0.0")
    file.write_text(settings.replace(there, everywhere), encoding="utf-8")
    main()


@pytest.mark.parametrize("text", ["address = 1", "\xff"], ids=["wrong", "no-text"])
def test_settings_that_cannot_be_read_fail_the_check_in_a_sentence(home, text):
    (home / "server.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(SystemExit, match=r"server\.toml"):
        main()


def test_without_a_home_the_check_fails_in_a_sentence(monkeypatch):
    monkeypatch.delenv("WARDROUND_SERVER_HOME", raising=False)
    with pytest.raises(SystemExit, match="WARDROUND_SERVER_HOME"):
        main()
