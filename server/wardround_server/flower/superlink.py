"""Flower's SuperLink with two doors.

The SuperLink has three APIs on one port. Only the Fleet API is for sites: Runtime and Control API
would let whoever reaches the port register nodes and start runs. Here the public port, with TLS and
node authentication, answers Fleet requests only; all three stand on a port of the loopback
interface, behind a token.
"""

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import ssl
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import uvicorn

from wardround_server.flower.connections import (
    Crowd,
    Limits,
    PublicServer,
    Server,
    recognising,
)
from wardround_shared.flower import (
    Asgi,
    Receive,
    Scope,
    Send,
    only_below,
    require_tested_flwr,
    with_token,
)

require_tested_flwr()

from flwr.common.constant import (  # noqa: E402
    ISOLATION_MODE_PROCESS,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
    TRANSPORT_TYPE_GRPC_RERE,
)
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState  # noqa: E402
from flwr.supercore import sql_mixin as sql  # noqa: E402
from flwr.supercore.constant import (  # noqa: E402
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
)
from flwr.supercore.date import now  # noqa: E402
from flwr.supercore.error import ApiErrorCode, FlowerError  # noqa: E402
from flwr.supercore.primitives.asymmetric import (  # noqa: E402
    bytes_to_public_key,
    verify_signature,
)
from flwr.superlink import main as flower_app  # noqa: E402
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan  # noqa: E402
from flwr.superlink.config_loader import (  # noqa: E402
    SuperLinkLifespanConfig,
    load_control_authn_plugin,
)
from flwr.superlink.servicer.fleet import fleet_handlers  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402

_FLEET = "/v1/fleet/"
_PRAGMAS = (("cache_size", "-4000"), ("mmap_size", "0"), ("busy_timeout", "60000"))
"""Flower gives each of its connections 64 MB and maps 256 MB; large models go through but once.

To announce one takes seconds in one transaction, for which the others have to wait.
"""

_OF_PLUGINS = ("FleetEventLogMiddleware", "RuntimeTracingMiddleware")
"""Middlewares that do nothing here, and cost every request a task."""

_MOST_CONNECTIONS = 400
"""Connections at a time; beyond, the next is told to come again."""

_CLEANING_SECONDS = 1.0

_RELOAD_SECONDS = 5.0
"""How often the certificate's file is looked at: a renewed one is taken without a restart."""


@dataclass(frozen=True, kw_only=True)
class Doors:
    """Where a SuperLink listens, and what it keeps.

    Attributes:
        host, port: public, as Flower is told.
        public: file descriptors of the sockets that listen there; Fleet API with TLS.
        local: file descriptor of a socket that listens on 127.0.0.1, made by who gives it out: a
            port that is chosen first and opened later could be somebody else's by then. All APIs,
            for holders of `token`.
        certificate, key: PEM files of the server.
        ca: PEM file of its issuer.
        database: SQLite file; made if it is not there.
    """

    host: str
    port: int
    public: tuple[int, ...]
    local: int
    token: str
    certificate: Path
    key: Path
    ca: Path
    database: Path


def serve(doors: Doors, *, stranger: Callable[[bytes], None] = lambda _key: None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        doors: where.
        stranger: is told the key (PEM) of a node that is refused, since nobody has registered it.
    """
    _tell_of_strangers(stranger)
    _only_for_themselves()
    _less_to_write()
    _room_for_connections()
    with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
        runner.run(_serve(doors))


def _registered(app: Any) -> Callable[[Mapping[bytes, bytes]], bool]:
    """Whether the headers of a request are signed by a node that is registered, as of now."""

    def registered(headers: Mapping[bytes, bytes]) -> bool:
        try:
            key, signature = (
                b64decode(headers[name.lower().encode()], validate=True)
                for name in (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER)
            )
            stamp = headers[TIMESTAMP_HEADER.lower().encode()]
            age = (now() - datetime.fromisoformat(stamp.decode("ascii"))).total_seconds()
            if not -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
                return False
            state = app.state.linkstate_factory.state()
            return state.get_node_id_by_public_key(key) is not None and verify_signature(
                bytes_to_public_key(key), stamp, signature
            )
        except (KeyError, ValueError, TypeError):
            return False

    return registered


def _only_for_themselves() -> None:
    """Nodes hand in replies, and in their own name: Flower looks who sends, not who it says."""
    handlers: Any = fleet_handlers
    pushing = handlers.push_messages

    def pushed(request: Any, state: Any) -> Any:
        for message in request.messages_list:
            about = message.metadata
            if about.src_node_id != request.node.node_id or not about.reply_to_message_id:
                raise FlowerError(
                    ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED,
                    f"node {request.node.node_id} speaks in the name of another",
                )
        return pushing(request=request, state=state)

    handlers.push_messages = pushed


def _less_to_write() -> None:
    """Spare every request three writings to the database: they cost more than the request.

    What Flower counts of a run's bytes nobody reads here. Tokens of tasks that have died are looked
    for with each request there; they die after half a minute.
    """
    state: Any = SqlLinkState
    cleaning = state._cleanup_expired_task_tokens  # noqa: SLF001
    cleaned = 0.0

    def cleanup(self: Any) -> None:
        nonlocal cleaned
        if time.monotonic() - cleaned >= _CLEANING_SECONDS:
            cleaned = time.monotonic()
            cleaning(self)

    state._cleanup_expired_task_tokens = cleanup  # noqa: SLF001
    state.store_traffic = lambda *_, **__: None


def _tell_of_strangers(stranger: Callable[[bytes], None]) -> None:
    handlers: Any = fleet_handlers
    activate = handlers.activate_node

    def told(request: Any, state: Any) -> Any:
        if state.get_node_id_by_public_key(request.public_key) is None:
            stranger(bytes(request.public_key))
        return activate(request=request, state=state)

    handlers.activate_node = told


def _room_for_connections() -> None:
    """As many open files as this process may have: those in their handshake nobody counts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(doors: Doors) -> None:
    app, limits = _app(doors), Limits()
    crowd = Crowd(limits.from_one_address)
    public = uvicorn.Config(
        recognising(only_below(app, _FLEET, known=_registered(app)), crowd),
        limit_concurrency=_MOST_CONNECTIONS,
        # A connection is its sender's, whatever a header says.
        proxy_headers=False,
        ws="none",
        ssl_certfile=doors.certificate,
        ssl_keyfile=doors.key,
        lifespan="off",
        access_log=False,
        log_level=logging.WARNING,
        server_header=False,
    )
    local = uvicorn.Config(
        with_token(app, doors.token),
        access_log=False,
        log_level=logging.WARNING,
    )
    public.load()
    assert public.ssl is not None
    public.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    servers = [Server(local), PublicServer(public, crowd=crowd, limits=limits)]
    sockets = [
        [socket.socket(fileno=one) for one in door] for door in ((doors.local,), doors.public)
    ]
    loop = asyncio.get_running_loop()

    def end() -> None:
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    async with _reloading(public.ssl, doors):
        await asyncio.gather(
            *(server.serve(where) for server, where in zip(servers, sockets, strict=True))
        )


class _Below:
    """A middleware for the paths of one API only: each costs every request a task."""

    def __init__(self, app: Asgi, *, prefix: str, kind: Middleware) -> None:
        self._app = app
        self._prefix = prefix
        self._special: Asgi = kind.cls(app, *kind.args, **kind.kwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        concerned = scope["type"] == "http" and scope["path"].startswith(self._prefix)
        await (self._special if concerned else self._app)(scope, receive, send)


def _app(doors: Doors) -> Asgi:
    """Flower's app; what only the Control API or a plug-in needs is passed by otherwise."""
    internals: Any = flower_app
    sql_mixin: Any = sql
    sql_mixin.SQLITE_PRAGMAS = (*sql_mixin.SQLITE_PRAGMAS, *_PRAGMAS)
    whole = internals._get_middleware  # noqa: SLF001 - this is the adapter

    def lean() -> list[Middleware]:
        found = []
        for kind in whole():
            name = kind.cls.__name__
            if name in _OF_PLUGINS:
                continue
            for api, prefix in (("Control", "/v1/control/"), ("NodeAuth", _FLEET)):
                if name.startswith(api):
                    found.append(Middleware(_Below, prefix=prefix, kind=kind))
                    break
            else:
                found.append(kind)
        return found

    internals._get_middleware = lean  # noqa: SLF001
    app: Asgi = internals.create_app(_config(doors), SuperLinkLifespan)
    return app


@contextlib.asynccontextmanager
async def _reloading(context: ssl.SSLContext, doors: Doors) -> AsyncIterator[None]:
    """Take a renewed certificate for new connections while the context is open."""

    async def watch() -> None:
        seen = _written(doors)
        while True:
            await asyncio.sleep(_RELOAD_SECONDS)
            if (now := _written(doors)) != seen:
                # Certificate and key are two files: a pair that does not fit is tried again.
                with contextlib.suppress(ssl.SSLError, OSError):
                    context.load_cert_chain(doors.certificate, doors.key)
                    seen = now

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def _written(doors: Doors) -> tuple[int, ...]:
    with contextlib.suppress(OSError):
        return tuple(file.stat().st_mtime_ns for file in (doors.certificate, doors.key))
    return ()


def _config(doors: Doors) -> SuperLinkLifespanConfig:
    return SuperLinkLifespanConfig(
        control_address="127.0.0.1:0",
        health_server_address=None,
        host=doors.host,
        port=doors.port,
        insecure=False,
        certificates=(
            doors.ca.read_bytes(),
            doors.certificate.read_bytes(),
            doors.key.read_bytes(),
        ),
        superexec_auth_secret=None,
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(doors.ca),
        ssl_certfile=str(doors.certificate),
        ssl_keyfile=str(doors.key),
        database=str(doors.database),
        # Nothing starts programs for apps: the runner takes its task itself.
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )
