"""Flower's internals that both daemons touch: which version, and who may speak to a local API.

What only one side needs stands in `wardround_server.flower` and `wardround_client.flower`.
"""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
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

_HEADER = "x-wardround-token"
_LONGEST_LENGTH = 20
"""Digits of a length; Python reads no number of thousands of them."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


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


def only_below(app: Asgi, prefix: str) -> Asgi:
    """The app's paths below `prefix`, and requests of a decent size; the rest is not there."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not scope["path"].startswith(prefix):
                await _refuse(send, 404)
                return
            if not _decent(dict(scope["headers"])):
                await _refuse(send, 413)
                return
        elif scope["type"] != "lifespan":
            await _hang_up(send)
            return
        await app(scope, receive, send)

    return guarded


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
