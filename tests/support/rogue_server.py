"""A server in an attacker's hands: the real SuperLink, and whatever a test wants to send."""

import io
import os
import secrets
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from wardround_shared.flower import QUIET

os.environ.update(QUIET)  # before flwr is imported

import httpx
from daemons import SUPERLINK, Hospital, Server, until
from flwr.app import RecordDict

from wardround_server.daemon.delivery import Delivery
from wardround_server.enrolment.home import ServerHome
from wardround_server.enrolment.rosters import node_keys
from wardround_server.exchange import Answer
from wardround_server.flower import control
from wardround_server.flower.control import Door, Operator
from wardround_server.flower.grid import Reply, RunGrid
from wardround_shared.supervision import Child, Program


def bundle(files: dict[str, str]) -> bytes:
    """A Flower app bundle with these files beside its description."""
    buffer = io.BytesIO(control._bundle())
    with zipfile.ZipFile(buffer, "a") as opened:
        for name, text in files.items():
            opened.writestr(name, text)
    return buffer.getvalue()


class RogueServer:
    """Holds the server's keys and address, and a run of its own; its daemon must not run."""

    def __init__(self, server: Server, *, files: ServerHome | None = None) -> None:
        """Listen where sites look for `server`.

        Args:
            server: whose place it takes.
            files: a home with other keys and certificates, if not the server's own.
        """
        self._sites = server.files
        files = files or server.files
        listening = socket.create_server(("127.0.0.1", 0))
        self._door = Door(port=listening.getsockname()[1], token=secrets.token_urlsafe(32))
        files.state.parent.mkdir(mode=0o700, exist_ok=True)
        with listening, socket.create_server(("127.0.0.1", server.port)) as public:
            self._child = Child(self._program(server, files, listening.fileno(), public.fileno()))
        self._grid: RunGrid | None = None
        self.operator = Operator(self._door)

    def _program(self, server: Server, files: ServerHome, listening: int, public: int) -> Program:
        return Program(
            name="superlink",
            module=SUPERLINK,
            settings={
                "host": "127.0.0.1",
                "port": server.port,
                "public": [public],
                "local": listening,
                "token": self._door.token,
                "certificate": str(files.certificate),
                "key": str(files.certificate_key),
                "ca": str(files.authorities),
                "database": ":flwr-in-memory:",
                "home": str(files.folder),
            },
            environment=QUIET,
            descriptors=(listening, public),
        )

    def open(self) -> None:
        """Let all sites of the roster connect."""

        def registered():
            try:
                for key in node_keys(self._sites, now=datetime.now(UTC)):
                    self.operator.register(key)
            except httpx.ConnectError:
                return False
            return True

        until(registered, "the SuperLink", seconds=60)

    def begin(self, app: bytes | None = None) -> None:
        """Start a Flower run, with a bundle that brings what it likes."""
        original = control._bundle
        control._bundle = (lambda: app) if app else original
        try:
            run_id = self.operator.start_run()
        finally:
            control._bundle = original
        found = self.operator.acquire()
        assert found is not None
        assert found[0] == run_id
        if self._grid is not None:
            self._grid.close()
        self._grid = RunGrid(self._door, found[1])

    def close(self) -> None:
        """Hang up and end the SuperLink."""
        if self._grid is not None:
            self._grid.close()
        self.operator.__exit__(None, None, None)
        self._child.ask_to_end()
        self._child.wait_for_end()

    def online(self, site: Hospital) -> bool:
        """Whether a site has connected."""
        return any(node.online and node.public_key == self._key(site) for node in self._nodes())

    def ask(self, site: Hospital, kind: str, content: RecordDict, *, seconds: float = 60) -> Answer:
        """What a site answers, as an honest server would carry it."""
        assert self._grid is not None
        node = until(lambda: self._node(site), f"{site.name} connected", told=site.tail)
        (answer,) = Delivery(self._grid).ask((node,), kind, content, group="0", deadline=seconds)
        return answer

    def send(self, site: Hospital, kind: str, travelling: RecordDict) -> Reply:
        """The reply to one message, just as it is."""
        grid = self._grid
        assert grid is not None
        node = until(lambda: self._node(site), f"{site.name} connected", told=site.tail)
        (message,) = grid.send([(node, kind, travelling)], group="0", ttl=600)
        (reply,) = until(
            lambda: list(grid.replies([message])), f"a reply to {kind}", told=site.tail
        )
        return reply

    def _node(self, site: Hospital) -> int | None:
        assert self._grid is not None
        for node in self._grid.nodes().values():
            if node.online and node.public_key == self._key(site):
                return node.node_id
        return None

    def _nodes(self):
        return self.operator.nodes()

    def _key(self, site: Hospital) -> bytes:
        keys = node_keys(self._sites, now=datetime.now(UTC))
        return next(key for key, name in keys.items() if name == site.name)


@contextmanager
def rogue(server: Server, *, files: ServerHome | None = None) -> Iterator[RogueServer]:
    """Such a server, ended at the end."""
    assert not server.running
    made = RogueServer(server, files=files)
    try:
        made.open()
        yield made
    finally:
        made.close()
