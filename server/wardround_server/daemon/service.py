"""`wardround-server start`: keeps the SuperLink up, and a runner for each run that is under way.

Whatever ends is started again, after a pause that grows while it keeps ending. The daemon itself
holds nothing that is not in its home, so that it may be killed and started at any moment.
"""

import json
import logging
import os
import secrets
import signal
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx

from wardround_server.daemon.health import serve_health
from wardround_server.daemon.metrics import RunFigures, ServerState, exposition, serve_metrics
from wardround_server.daemon.overview import DAEMON
from wardround_server.daemon.runs import RunRecord, Runs
from wardround_server.enrolment.home import ServerHome
from wardround_server.enrolment.renewal import certificate_facts
from wardround_server.enrolment.rosters import node_keys
from wardround_server.flower.control import Door, NodeState, Operator
from wardround_shared.audit_log import AuditLog
from wardround_shared.flower import QUIET, local_without_proxy
from wardround_shared.supervision import Backoff, Child, Program, alone
from wardround_shared.times import utc_now

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_ENROL_SECONDS = 2.0
_SUPERLINK = "wardround_server.daemon.superlink"
_RUNNER = "wardround_server.daemon.runner"


class Service:
    """The daemon of a server."""

    def __init__(self, home: ServerHome) -> None:
        self._home = home
        self._runs = Runs(home.runs)
        self._settings = home.settings()
        self._audit = AuditLog(home.audit_log)
        # Ours for as long as the daemon lives, so that nobody else can open it in a pause.
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._door = Door(port=self._listening.getsockname()[1], token=secrets.token_urlsafe(32))
        self._ending = False
        self._superlink: Child | None = None
        self._superlink_pause = Backoff()
        self._runners: dict[str, Child] = {}
        self._pauses: dict[str, Backoff] = {}
        self._nodes: tuple[NodeState, ...] = ()
        self._sites: dict[bytes, str] = {}
        self._next_enrolment = 0.0
        self.superlink_restarts = 0
        self.runner_restarts = 0

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            RunError: another daemon serves this home.
        """
        os.umask(0o077)
        os.environ.update(local_without_proxy(os.environ))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_end)
        with alone(self._home.folder):
            self._audit.append("started")
            try:
                while self._wait():
                    self.look()
            finally:
                self.close()
                self._audit.append("stopped")

    def _ask_to_end(self, *_: object) -> None:
        # No more than this: a handler that takes a lock may wait for the very code it interrupts.
        self._ending = True

    def _wait(self) -> bool:
        """Until the next look; False: there shall be none."""
        if not self._ending:
            time.sleep(_LOOK_SECONDS)
        return not self._ending

    def look(self) -> None:
        """One look at everything that has to be there."""
        self._keep_superlink()
        if self._superlink is None:
            return
        self._enrol()
        self._keep_runners()

    def close(self) -> None:
        """End all children: runners first, so that they can still say good-bye."""
        for child in self._runners.values():
            child.ask_to_end()
        for child in self._runners.values():
            child.wait_for_end()
        self._runners.clear()
        if self._superlink is not None:
            self._superlink.ask_to_end()
            self._superlink.wait_for_end()
            self._superlink = None
        self._listening.close()

    @property
    def serving(self) -> bool:
        """Whether sites can connect."""
        superlink = self._superlink
        return superlink is not None and superlink.ended() is None and bool(self._next_enrolment)

    def state(self) -> ServerState:
        """What metrics tell."""
        facts, now = certificate_facts(self._home), utc_now()
        return ServerState(
            serving=self.serving,
            sites_registered=len(set(node_keys(self._home, now=now).values())),
            sites_online=sum(one["online"] for one in self._connections().values()),
            runs=tuple(self._figures(record) for record in self._runs.all()),
            certificate_seconds=(facts.ends - now).total_seconds(),
            authority_seconds=(facts.authority_ends - now).total_seconds(),
            superlink_restarts=self.superlink_restarts,
            runner_restarts=self.runner_restarts,
        )

    def _figures(self, record: RunRecord) -> RunFigures:
        said: dict[str, Any] = self._runs.status(record.name)
        since = said.get("closed") or record.created or utc_now().isoformat()
        return RunFigures(
            name=record.name,
            state=record.state,
            round=int(said.get("round", 0)),
            rounds=int(said.get("rounds", 0)),
            waiting_for=len(said.get("waiting_for", {})),
            since_round=(utc_now() - datetime.fromisoformat(since)).total_seconds(),
        )

    def _connections(self) -> dict[str, dict[str, Any]]:
        """Site -> whether one of its nodes is connected, and since when."""
        found: dict[str, dict[str, Any]] = {}
        for node in self._nodes:
            site = self._sites.get(_key(node.public_key))
            if site is not None and (node.online or site not in found):
                found[site] = {"online": node.online, "since": node.activated}
        return found

    def _say(self) -> None:
        """What `status` shows, for as long as it is fresh."""
        content = {
            "serving": self.serving,
            "pid": os.getpid(),
            "sites": self._connections(),
            "updated": utc_now().isoformat(timespec="seconds"),
        }
        with suppress(OSError):
            unfinished = self._home.folder / f".{DAEMON}"
            unfinished.write_text(json.dumps(content), encoding="utf-8")
            unfinished.replace(self._home.folder / DAEMON)

    # --- the SuperLink -----------------------------------------------------------------------

    def _keep_superlink(self) -> None:
        if self._superlink is not None and (code := self._superlink.ended()) is not None:
            pause = self._superlink_pause.ended()
            _log.error("the SuperLink has ended (%d); started again in %.1f s", code, pause)
            self._superlink.wait_for_end()
            self._superlink = None
            self._next_enrolment = 0.0
            self.superlink_restarts += 1
        if self._superlink is None and self._superlink_pause.due:
            self._superlink_pause.started()
            self._superlink = Child(self._superlink_program())

    def _superlink_program(self) -> Program:
        home, listen = self._home, self._settings.listen
        home.state.parent.mkdir(mode=0o700, exist_ok=True)
        return Program(
            name="superlink",
            module=_SUPERLINK,
            settings={
                "host": listen.host,
                "port": listen.port,
                "local": self._listening.fileno(),
                "token": self._door.token,
                "certificate": str(home.certificate),
                "key": str(home.certificate_key),
                "ca": str(home.authorities),
                "database": str(home.state),
                "home": str(home.folder),
            },
            environment=QUIET,
            descriptors=(self._listening.fileno(),),
        )

    # --- who may connect ---------------------------------------------------------------------

    def _enrol(self) -> None:
        """Let the nodes of the roster connect, and nobody else."""
        now = datetime.now(UTC)
        if now.timestamp() < self._next_enrolment:
            return
        wanted = self._sites = node_keys(self._home, now=now)
        with suppress(httpx.HTTPError), Operator(self._door) as operator:
            known = {_key(node.public_key): node for node in operator.nodes()}
            for key in wanted.keys() - known.keys():
                operator.register(key)
            for key in known.keys() - wanted.keys():
                operator.unregister(known[key].node_id)
            self._nodes = tuple(known[key] for key in wanted.keys() & known.keys())
            self._next_enrolment = now.timestamp() + _ENROL_SECONDS
        self._say()

    # --- runs --------------------------------------------------------------------------------

    def _keep_runners(self) -> None:
        if not self._next_enrolment:
            return
        active = {record.name: record for record in self._runs.all() if record.active}
        for name, child in list(self._runners.items()):
            if (code := child.ended()) is not None:
                self._ended(name, child, code)
            elif name not in active:
                child.ask_to_end()  # it was stopped; it ends between two steps
        for name, record in active.items():
            if name not in self._runners and self._pauses.setdefault(name, Backoff()).due:
                self._start(record)

    def _start(self, record: RunRecord) -> None:
        self._pauses[record.name].started()
        self._runners[record.name] = Child(
            Program(
                name=f"runner {record.name}",
                module=_RUNNER,
                settings={
                    "home": str(self._home.folder),
                    "run": record.name,
                    "port": self._door.port,
                    "token": self._door.token,
                },
                environment=QUIET,
            )
        )

    def _ended(self, name: str, child: Child, code: int) -> None:
        child.wait_for_end()
        del self._runners[name]
        if name not in {record.name for record in self._runs.all() if record.active}:
            self._pauses.pop(name, None)
            return
        pause = self._pauses[name].ended()
        self.runner_restarts += 1
        _log.error("the runner of %s has ended (%d); started again in %.1f s", name, code, pause)


def serve(home: ServerHome) -> None:
    """Run the daemon of a home, with gRPC health and metrics beside it.

    Raises:
        WardroundError: another daemon serves the home, or a port is taken.
    """
    service, settings = Service(home), home.settings()
    health = serve_health(settings.health.host, settings.health.port, lambda: service.serving)
    metrics = serve_metrics(
        settings.metrics.host,
        settings.metrics.port,
        lambda: exposition(service.state()),
        serving=lambda: service.serving,
    )
    try:
        service.run()
    finally:
        metrics.close()
        health.stop(grace=None)


def _key(pem: bytes) -> bytes:
    return pem.strip() + b"\n"
