"""Flower's SuperLink with two doors.

The SuperLink has three APIs on one port. Only the Fleet API is for sites: Runtime and Control API
would let whoever reaches the port register nodes and start runs. Here the public port, with TLS and
node authentication, answers Fleet requests only; all three stand on a port of the loopback
interface, behind a token.
"""

import asyncio
import contextlib
import logging
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

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

from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE  # noqa: E402
from flwr.supercore import sql_mixin as sql  # noqa: E402
from flwr.superlink import main as flower_app  # noqa: E402
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan  # noqa: E402
from flwr.superlink.config_loader import (  # noqa: E402
    SuperLinkLifespanConfig,
    load_control_authn_plugin,
)
from starlette.middleware import Middleware  # noqa: E402

_FLEET = "/v1/fleet/"
_PRAGMAS = (("cache_size", "-4000"), ("mmap_size", "0"), ("busy_timeout", "60000"))
"""Flower gives each of its connections 64 MB and maps 256 MB; large models go through but once.

To announce one takes seconds in one transaction, for which the others have to wait.
"""

_RELOAD_SECONDS = 5.0
"""How often the certificate's file is looked at: a renewed one is taken without a restart."""


@dataclass(frozen=True, kw_only=True)
class Doors:
    """Where a SuperLink listens, and what it keeps.

    Attributes:
        host, port: public; Fleet API with TLS.
        local_port: on 127.0.0.1; all APIs, for holders of `token`.
        certificate, key: PEM files of the server.
        ca: PEM file of its issuer.
        database: SQLite file; made if it is not there.
    """

    host: str
    port: int
    local_port: int
    token: str
    certificate: Path
    key: Path
    ca: Path
    database: Path


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the process, which has two of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def serve(doors: Doors) -> None:
    """Serve until SIGTERM or SIGINT."""
    asyncio.run(_serve(doors))


async def _serve(doors: Doors) -> None:
    app = _app(doors)
    public = uvicorn.Config(
        only_below(app, _FLEET),
        host=doors.host,
        port=doors.port,
        ssl_certfile=doors.certificate,
        ssl_keyfile=doors.key,
        lifespan="off",
        access_log=False,
        log_level=logging.WARNING,
        server_header=False,
    )
    local = uvicorn.Config(
        with_token(app, doors.token),
        host="127.0.0.1",
        port=doors.local_port,
        access_log=False,
        log_level=logging.WARNING,
    )
    public.load()
    assert public.ssl is not None
    public.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    servers = [_Server(local), _Server(public)]
    loop = asyncio.get_running_loop()

    def end() -> None:
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    async with _reloading(public.ssl, doors):
        await asyncio.gather(*(server.serve() for server in servers))


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
            if name.startswith("Control"):
                found.append(Middleware(_Below, prefix="/v1/control/", kind=kind))
            elif name != "FleetEventLogMiddleware":  # of a plug-in that we have not
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
