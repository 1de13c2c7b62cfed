"""Flower's SuperNode as one process of a site: it fetches requests and delivers answers.

It runs nothing: apps come as bundles, and the worker of this site ignores them. Beside that it
differs from `flower-supernode` in three ways. It polls soon after a message and seldom after a long
silence, where Flower waits three seconds each time. It connects at once after it was killed, where
Flower's server takes the old connection for alive for a minute. Its local API asks for a token.
"""

import functools
import logging
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import uvicorn

from wardround_client.durable import replace
from wardround_client.flower.refusal import Refusal
from wardround_shared.flower import require_tested_flwr, with_token

require_tested_flwr()

import httpx  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.hazmat.primitives.serialization import load_ssh_private_key  # noqa: E402
from flwr.common.constant import ISOLATION_MODE_PROCESS  # noqa: E402
from flwr.proto.fleet_pb2 import (  # noqa: E402
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
)
from flwr.supercore import heartbeat  # noqa: E402
from flwr.supercore.error import FlowerError  # noqa: E402
from flwr.supercore.object_store import ObjectStoreFactory  # noqa: E402
from flwr.supercore.retry import http_retry  # noqa: E402
from flwr.supercore.run import RunNotRunningException  # noqa: E402
from flwr.supernode import fleet_http_connection, start_client_internal  # noqa: E402
from flwr.supernode.fleet_http_client import FleetHttpClient  # noqa: E402
from flwr.supernode.main import create_app  # noqa: E402
from flwr.supernode.nodestate import NodeStateFactory  # noqa: E402

T = TypeVar("T")

_log = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 15
"""A node is taken for dead after two of them."""

_LONGEST_RETRY_SECONDS = 5
_SHORTEST_POLL_SECONDS = 0.06
_LONGEST_POLL_SECONDS = 3.0
_SHARE_OF_SILENCE = 0.2
"""The pause between two polls, as a share of the time since the last message."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """What a SuperNode process needs to know.

    Attributes:
        server: host:port of the server's public door.
        ca: PEM file of its issuer.
        node_key: OpenSSH private key that the server has admitted.
        node_id: file that remembers the id that the server gave.
        listening: file descriptor of a socket that listens on 127.0.0.1, for the local API; the
            worker knows its port and `token`.
        worker: file descriptor of a socket to the worker: a byte each way says "look".
    """

    server: str
    ca: Path
    node_key: Path
    node_id: Path
    listening: int
    token: str
    worker: int


def connect(connection: Connection) -> None:
    """Serve until SIGTERM, or until this node is refused.

    Raises:
        SystemExit: with the code of a `Refusal`, where there was one.
    """
    state = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    _serve_worker(connection, state)
    _patch(connection)
    private = load_ssh_private_key(connection.node_key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    start_client_internal.start_client_internal(
        state_factory=state,
        server_address=connection.server,
        node_config={},
        root_certificates=str(connection.ca),
        insecure=False,
        authentication_keys=(private, private.public_key()),
        isolation=ISOLATION_MODE_PROCESS,
    )


def _patch(connection: Connection) -> None:
    """Put our pace, patience and client in the place of Flower's, in its main loop's modules."""
    loop: Any = start_client_internal
    pace, pushing = _Pace(connection.worker), loop._push_messages  # noqa: SLF001

    def push(**arguments: Any) -> None:
        pace.message_came()
        pushing(**arguments)

    loop.time, loop._push_messages = pace, push  # noqa: SLF001
    fetching = loop._pull_and_store_message  # noqa: SLF001

    def fetch(**arguments: Any) -> int | None:
        for name in ("pull_object", "confirm_message_received"):
            arguments[name] = _or_failing(arguments[name])
        message: int | None = fetching(**arguments)
        return message

    loop._pull_and_store_message = fetch  # noqa: SLF001
    # A request is announced before it is uploaded: its pieces are looked for soon, and for long.
    loop.pull_objects = functools.partial(
        loop.pull_objects,
        initial_backoff=_SHORTEST_POLL_SECONDS,
        backoff_cap=_LONGEST_POLL_SECONDS,
        max_tries_per_object=None,
    )
    beats: Any
    for beats in (heartbeat, fleet_http_connection):
        beats.HEARTBEAT_DEFAULT_INTERVAL = _HEARTBEAT_SECONDS
    retries: Any = http_retry
    retries.MAX_RETRY_DELAY = _LONGEST_RETRY_SECONDS
    connections: Any = fleet_http_connection
    connections.FleetHttpClient = _client_class(connection)


def _or_failing(call: Callable[..., T]) -> Callable[..., T]:
    """The call, with an error of the common kind where the run has ended meanwhile.

    Flower forgets a message that it cannot fetch. When the run ends while it fetches, it does not:
    it keeps a task without content, which the worker would wait for, and everything after it.
    """

    def called(*arguments: Any) -> T:
        try:
            return call(*arguments)
        except RunNotRunningException as ended:
            raise InterruptedError("its run has ended") from ended

    return called


class _Pace(SimpleNamespace):
    """Stands for the module `time` in Flower's main loop, which uses nothing of it but `sleep`."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker
        self._last = time.monotonic()

    def message_came(self) -> None:
        """Wake the worker."""
        os.write(self._worker, b".")

    def sleep(self, seconds: float) -> None:
        """Flower waits 3 s for the next message, and half a second for the worker's answer."""
        if seconds < 1:
            self._last = time.monotonic()
            if select.select([self._worker], [], [], seconds)[0] and not os.read(self._worker, 64):
                raise SystemExit("The worker of this site has ended.")
            return
        silence = time.monotonic() - self._last
        pause = max(_SHORTEST_POLL_SECONDS, _SHARE_OF_SILENCE * silence)
        time.sleep(min(pause, _LONGEST_POLL_SECONDS))


def _client_class(connection: Connection) -> type[FleetHttpClient]:
    class Client(FleetHttpClient):
        """A client that takes its own old connection down when it finds one."""

        def ActivateNode(self, request: ActivateNodeRequest) -> ActivateNodeResponse:  # noqa: N802
            try:
                return self._activate(request)
            except (httpx.HTTPStatusError, httpx.TransportError) as error:
                if (refusal := _refusal_of(error)) is None:
                    raise
                _log.error("%s (%s)", refusal.sentence, _said(error))
                # Flower would end the process for all of them with the same code.
                raise SystemExit(int(refusal)) from error

        def _activate(self, request: ActivateNodeRequest) -> ActivateNodeResponse:
            try:
                answer = super().ActivateNode(request)
            except httpx.HTTPStatusError as refused:
                if not connection.node_id.exists():
                    raise
                old = int(connection.node_id.read_text())
                try:
                    self.DeactivateNode(DeactivateNodeRequest(node_id=old))
                except httpx.HTTPStatusError:
                    raise refused from None  # the first word says why: not in the roster, say
                answer = super().ActivateNode(request)
            replace(connection.node_id, [str(answer.node_id).encode()])
            return answer

    return Client


def _refusal_of(error: httpx.HTTPStatusError | httpx.TransportError) -> Refusal | None:
    """Why this node was refused; None: it was not, and trying again may help."""
    if isinstance(error, httpx.HTTPStatusError):
        return Refusal.of_status(error.response.status_code)
    if isinstance(error, httpx.ProxyError):
        return Refusal.PROXY
    below: BaseException | None = error
    while below is not None and not isinstance(below, ssl.SSLError):
        below = below.__cause__ or below.__context__
    # A connection that is cut off in the middle is nobody's refusal.
    if below is None or isinstance(below, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None
    return Refusal.of_distrust(below)


def _said(error: httpx.HTTPStatusError | httpx.TransportError) -> str:
    """What the server, or the TLS library, says of it."""
    if isinstance(error, httpx.HTTPStatusError):
        found = FlowerError.from_json(error.response.text)
        said = f"HTTP {error.response.status_code}"
        return said if found is None else f"{said}: {found.message}"
    return str(error)


def _serve_worker(connection: Connection, state: NodeStateFactory) -> None:
    """Flower's Runtime API for the worker, on a thread of this process."""
    app = with_token(create_app(state_factory=state), connection.token)
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning"))
    sockets = [socket.socket(fileno=connection.listening)]
    thread = threading.Thread(target=server.run, args=(sockets,), daemon=True, name="runtime-api")
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.02)
    if not server.started:
        raise SystemExit("The local API of the SuperNode cannot be served.")
