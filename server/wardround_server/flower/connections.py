"""Connections of the public door: strangers hold few of them, and none of them in silence.

A connection costs whoever opens it nothing, and there are only so many. So one that brings no
request is closed soon, and from one address come only so many, until a node has been answered on
them: hospitals behind one proxy share an address, and those that are known are not counted.
"""

import asyncio
import contextlib
import socket
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.utils import get_remote_addr

from wardround_shared.flower import Asgi, Receive, Scope, Send

Peer = tuple[str, int]

# httptools or h11, whichever is installed; either has `cycle` and `on_response_complete`.
_Http: Any = AutoHTTPProtocol

_OK = 200
_PREFIX = 64
"""Bits of an IPv6 address that are given out; the rest is whatever its holder likes."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a stranger may do.

    Attributes:
        handshake: seconds for TLS, and to end it.
        head: seconds until a whole head of a request is there, the first and each further one.
        from_one_address: connections at a time.
    """

    handshake: float = 10.0
    head: float = 10.0
    from_one_address: int = 64


class Crowd:
    """Connections on which no node was answered yet, by where they come from."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._strangers: defaultdict[str, set[Peer]] = defaultdict(set)

    def enter(self, peer: Peer) -> bool:
        """Count a connection; False: there are too many already, and it is not counted."""
        there = self._strangers[_network(peer[0])]
        if len(there) >= self._most:
            return False
        there.add(peer)
        return True

    def leave(self, peer: Peer) -> None:
        """Count it no more: it has ended, or is known."""
        network = _network(peer[0])
        self._strangers[network].discard(peer)
        if not self._strangers[network]:
            del self._strangers[network]


def recognising(app: Asgi, crowd: Crowd) -> Asgi:
    """The app, of whose callers those are known that it answers: it looks who signs."""

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] == _OK:
                crowd.leave(scope["client"])
            await send(message)

        await app(scope, receive, sent)

    return watched


class Connection(_Http):  # type: ignore[misc]
    """One connection, which is closed when it brings no request in time."""

    def __init__(self, *, crowd: Crowd, limits: Limits, **settings: Any) -> None:
        super().__init__(**settings)
        self._crowd = crowd
        self._limits = limits
        self._peer: Peer | None = None
        self._silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take it, unless too many come from its address."""
        peer = get_remote_addr(transport)
        if peer is None or not self._crowd.enter(peer):
            transport.abort()
            return
        self._peer = peer
        super().connection_made(transport)
        self._listen()

    def data_received(self, data: bytes) -> None:
        """Part of a request."""
        if self._peer is not None:
            super().data_received(data)
            if self._answering:
                self._listen_no_more()

    def on_response_complete(self) -> None:
        """The next request may come."""
        super().on_response_complete()
        if not self._answering:
            self._listen()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._listen_no_more()
        if self._peer is not None:
            self._crowd.leave(self._peer)
            super().connection_lost(exc)

    @property
    def _answering(self) -> bool:
        """Whether the head of a request is there that has not been answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _listen(self) -> None:
        self._listen_no_more()
        # Not closed: TLS would wait for an answer from whoever is silent.
        self._silence = self.loop.call_later(self._limits.head, self.transport.abort)

    def _listen_no_more(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the process, which has two of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class PublicServer(Server):
    """A server with TLS whose connections keep to limits."""

    def __init__(self, config: uvicorn.Config, *, crowd: Crowd, limits: Limits) -> None:
        super().__init__(config)
        self._crowd = crowd
        self._limits = limits

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, as uvicorn does, which has no setting for the time that TLS may take."""
        await self.lifespan.startup()
        config, loop = self.config, asyncio.get_running_loop()
        connection = partial(
            Connection,
            crowd=self._crowd,
            limits=self._limits,
            config=config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self.servers = [
            await loop.create_server(
                connection,
                sock=one,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=self._limits.handshake,
                ssl_shutdown_timeout=self._limits.handshake,
            )
            for one in sockets or ()
        ]
        self.started = True


def _network(host: str) -> str:
    """What one holder has of addresses."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    return str(address.ipv4_mapped or IPv6Network((address, _PREFIX), strict=False))
