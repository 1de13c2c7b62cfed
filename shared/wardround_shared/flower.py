"""Flower's internals that both daemons touch: which version, and who may speak to a local API.

What only one side needs stands in `wardround_server.flower` and `wardround_client.flower`.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from importlib.metadata import version
from typing import Any

import httpx

from wardround_shared.errors import ProtocolError

TESTED = "1.41.0"
"""The one version of flwr that the daemons were tested with."""

# Read from the environment when flwr is first imported, so a daemon's children are started with it.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # A piece of a model has half a minute on the slowest line; each costs some requests.
    "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(1024 * 1024),
}
"""Environment of every process that imports flwr in a daemon."""

LARGEST_BODY = 16 * 1024 * 1024
"""Bytes of the largest request that a guarded API reads; a model travels in pieces far smaller."""

_SMALL_BODY, _MOST_BODIES = 64 * 1024, 32
"""Bytes that anybody may send, and so many larger ones are read at a time."""

_PATIENCE_SECONDS = 60.0
_LOCAL = ("127.0.0.1", "localhost")
_HEADER = "x-wardround-token"
_LONGEST_LENGTH = 20
"""Digits of a length; Python reads no number of thousands of them."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


def local_without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables by which a hospital's proxy is asked for the server, and never for this machine.

    Args:
        environment: as it is.
    """
    known = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = ",".join(part for part in (known, *_LOCAL) if part)
    return {"NO_PROXY": names, "no_proxy": names}


def require_tested_flwr() -> None:
    """Refuse to touch the internals of a version that nobody has tried.

    Raises:
        ProtocolError: another version of flwr is installed.
    """
    found = version("flwr")
    if found != TESTED:
        raise ProtocolError(
            f"flwr {found} is installed, and this release of wardround was tested with {TESTED} "
            f"only; install flwr=={TESTED}."
        )


class Token:
    """Client interceptor: says on each request that we are who started the API."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        """Add the header."""
        context.request.headers[_HEADER] = self._token
        return call_next(context)


def with_token(app: Asgi, token: str) -> Asgi:
    """The app, for callers that know `token`; everybody else gets 403."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(_HEADER.encode(), b"")
            if not hmac.compare_digest(given, token.encode()):
                await _refuse(send, 403)
                return
        elif scope["type"] != "lifespan":
            await _hang_up(send)  # nothing else is spoken here, so nothing else needs a token
            return
        await app(scope, receive, send)

    return guarded


def only_below(
    app: Asgi, prefix: str, *, known: Callable[[Mapping[bytes, bytes]], bool] = lambda _: True
) -> Asgi:
    """The app's paths below `prefix`, and requests of a decent size; the rest is not there.

    Args:
        app: whose paths they are.
        prefix: of the paths.
        known: by its headers, whether a request is of somebody who may send much. Without that
            strangers could fill the memory before the app looks who they are.
    """
    bodies = asyncio.Semaphore(_MOST_BODIES)

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not scope["path"].startswith(prefix):
                await _refuse(send, 404)
                return
            headers = dict(scope["headers"])
            if not _decent(headers):
                await _refuse(send, 413)
                return
            if int(headers[b"content-length"]) > _SMALL_BODY:
                if not known(headers):
                    await _refuse(send, 401)
                    return
                async with bodies:
                    await app(scope, _impatient(receive), send)
                return
            receive = _impatient(receive)
        elif scope["type"] != "lifespan":
            await _hang_up(send)
            return
        await app(scope, receive, send)

    return guarded


def _impatient(receive: Receive) -> Receive:
    """The rest of a request, as long as it keeps coming; who stops is taken for gone."""
    whole = False

    async def received() -> MutableMapping[str, Any]:
        nonlocal whole
        if whole:  # from here on it waits for the end of the connection
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), _PATIENCE_SECONDS)
        except TimeoutError:
            return {"type": "http.disconnect"}
        whole = not message.get("more_body", False)
        return message

    return received


def _decent(headers: dict[bytes, bytes]) -> bool:
    """Whether a body is as long as it says, and not too long."""
    length = headers.get(b"content-length", b"")
    # A body in chunks is as long as its sender likes, whatever it says of its length.
    if b"transfer-encoding" in headers or not length.isdigit() or len(length) > _LONGEST_LENGTH:
        return False
    return int(length) <= LARGEST_BODY


async def _hang_up(send: Send) -> None:
    await send({"type": "websocket.close", "code": 1008})


async def _refuse(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})
