"""gRPC health of the server (grpc.health.v1, gRPC Health Checking Protocol), without TLS.

For whatever watches over the machine: Kubernetes, a load balancer, a container's health check. The
one service that is known is the server as a whole, whose name in the protocol is empty. With that,
requests and answers are a handful of fixed byte strings, and no generated code is needed.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from wardround_server.enrolment.settings import HealthSettings, parse_settings
from wardround_shared.errors import EnrolmentError, WardroundError

SERVICE = "grpc.health.v1.Health"

# HealthCheckRequest has one field, `string service = 1`; an empty one may be left out.
_WHOLE_SERVER = frozenset({b"", b"\x0a\x00"})
# HealthCheckResponse has one field, `ServingStatus status = 1`.
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"

_LOOK_SECONDS = 0.5
_ANSWER_SECONDS = 5.0
_WATCHERS = 4
"""Each of them takes a thread for as long as it watches."""
_CHECKERS = 2


def serve_health(host: str, port: int, serving: Callable[[], bool]) -> grpc.Server:
    """Answer Check and Watch until the server that is returned is stopped.

    Args:
        host: address of this machine; the loopback's for this machine alone.
        port: of the plain connection.
        serving: whether sites can connect; asked each time, on threads of the gRPC server.

    Raises:
        EnrolmentError: the port cannot be opened.
    """
    server = grpc.server(
        ThreadPoolExecutor(_WATCHERS + _CHECKERS, thread_name_prefix="health"),
        # Two daemons on one port would take turns at answering, and nobody would notice.
        options=[("grpc.so_reuseport", 0)],
        maximum_concurrent_rpcs=4 * (_WATCHERS + _CHECKERS),
    )
    health = _Health(serving)
    methods = {
        "Check": grpc.unary_unary_rpc_method_handler(health.check),
        "Watch": grpc.unary_stream_rpc_method_handler(health.watch),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    try:
        server.add_insecure_port(_address(host, port))
    except RuntimeError as error:
        raise EnrolmentError(
            f"{_address(host, port)}: this address for gRPC health cannot be opened; end what "
            "listens there, or name another under [health] in server.toml."
        ) from error
    server.start()
    return server


def ask_health(host: str, port: int) -> bool:
    """Whether the daemon that answers there serves; False too if nobody answers."""
    with grpc.insecure_channel(_address(host, port)) as channel:
        try:
            return bool(
                channel.unary_unary(f"/{SERVICE}/Check")(b"", timeout=_ANSWER_SECONDS) == _SERVING
            )
        except grpc.RpcError:
            return False


class _Health:
    """The two methods of the protocol."""

    def __init__(self, serving: Callable[[], bool]) -> None:
        self._serving = serving
        self._seats = threading.Semaphore(_WATCHERS)

    def check(self, request: bytes, context: Any) -> bytes:
        """What holds now; NOT_FOUND for a service that is not known."""
        status = self._status(request)
        if status == _SERVICE_UNKNOWN:
            context.abort(grpc.StatusCode.NOT_FOUND, "Ask with an empty service name.")
        return status

    def watch(self, request: bytes, context: Any) -> Iterator[bytes]:
        """What holds now, and each change, until the client leaves or the server stops."""
        if not self._seats.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many watch already; use Check.")
        try:
            gone, told = threading.Event(), b""
            if not context.add_callback(gone.set):
                return
            while not gone.is_set():
                if (status := self._status(request)) != told:
                    yield status
                    told = status
                gone.wait(_LOOK_SECONDS)
        finally:
            self._seats.release()

    def _status(self, request: bytes) -> bytes:
        if request not in _WHOLE_SERVER:
            return _SERVICE_UNKNOWN
        return _SERVING if self._serving() else _NOT_SERVING


def main() -> None:
    """Ask the daemon of this machine: the health check of a container.

    Exit code 0 if sites can connect, otherwise 1 and a sentence.
    """
    settings = _settings()
    # A daemon that listens at all addresses is asked at the loopback's.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    if not ask_health(host, settings.port):
        sys.exit(f"{_address(host, settings.port)}: no daemon serves here.")


def _settings() -> HealthSettings:
    home = os.environ.get("WARDROUND_SERVER_HOME")
    if home is None:
        sys.exit("WARDROUND_SERVER_HOME is not set; it names the server's home.")
    file = Path(home) / "server.toml"
    try:
        return parse_settings(file.read_text(encoding="utf-8"), origin=str(file)).health
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"{file}: cannot be read ({error}).")
    except WardroundError as error:
        sys.exit(str(error))


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    main()
