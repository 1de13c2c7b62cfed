"""`wardround-server start`: keeps the SuperLink up, and a runner for each run that is under way.

Whatever ends is started again, after a pause that grows while it keeps ending. The daemon itself
holds nothing that is not in its home, so that it may be killed and started at any moment.
"""

import errno
import json
import logging
import math
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
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
from wardround_server.run_folder import ROUNDS
from wardround_shared.audit_log import AuditLog
from wardround_shared.consortium import files
from wardround_shared.errors import EnrolmentError, WardroundError
from wardround_shared.flower import QUIET, local_without_proxy
from wardround_shared.supervision import NOT_STARTED, Backoff, Child, Ending, Program, alone
from wardround_shared.times import utc_now

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_ENROL_SECONDS = 2.0

_QUICK_SECONDS, _MOST_QUICK_ENDS = 60.0, 5
"""A run has failed whose runner ends so often in a row, each time so soon and for nothing."""

_PORT_SECONDS = 3.0
"""What is left of a daemon that was killed lets its port go within that."""

_UNAVAILABLE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_SUPERLINK = "wardround_server.daemon.superlink"
_RUNNER = "wardround_server.daemon.runner"


@dataclass(kw_only=True)
class _Attempts:
    """How often a runner has ended in vain.

    Attributes:
        ends: in a row, without a round that was closed.
        superlinks: that had ended when the runner was started.
        rounds: bytes that its run had written of rounds by then.
    """

    ends: int = 0
    superlinks: int = 0
    rounds: int = 0


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
        self._public: tuple[socket.socket, ...] = ()
        self._superlink: Child | None = None
        self._superlink_pause = Backoff()
        self._runners: dict[str, Child] = {}
        self._pauses: dict[str, Backoff] = {}
        self._attempts: dict[str, _Attempts] = {}
        self._nodes: tuple[NodeState, ...] = ()
        self._sites: dict[bytes, str] = {}
        self._enrolled = False
        self._reached = False
        self._next_enrolment = -math.inf
        self.superlink_restarts = 0
        self.runner_restarts = 0

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            RunError: another daemon serves this home.
            EnrolmentError: the public port is taken, the certificate cannot be used, or the home
                cannot be written.
        """
        os.umask(0o077)
        os.environ.update(local_without_proxy(os.environ))
        ending = Ending()
        with alone(self._home.folder):
            # The SuperLink could only end over them, again and again.
            certificate_facts(self._home)
            self._open_public()
            self._audit.append("started")
            try:
                while not ending.wait(_LOOK_SECONDS):
                    self.look()
            finally:
                self.close()
                self._audit.append("stopped")

    def look(self) -> None:
        """One look at everything that has to be there."""
        self._keep_superlink()
        if not self.serving:
            self._say()
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
        for listening in (self._listening, *self._public):
            listening.close()

    @property
    def serving(self) -> bool:
        """Whether sites can connect."""
        superlink = self._superlink
        return superlink is not None and superlink.ended() is None and self._enrolled

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
            self._enrolled, self._next_enrolment = False, -math.inf
            self.superlink_restarts += 1
        if self._superlink is None and self._superlink_pause.due:
            self._superlink_pause.started()
            self._superlink = Child(self._superlink_program())

    def _open_public(self) -> tuple[socket.socket, ...]:
        """Ours as the local one is: sites that come while a SuperLink is down wait for the next."""
        if not self._public:
            listen = self._settings.listen
            self._public = _listening_at(listen.host, listen.port)
        return self._public

    def _superlink_program(self) -> Program:
        home, listen = self._home, self._settings.listen
        files.make_folder(home.state.parent)
        public = [one.fileno() for one in self._open_public()]
        return Program(
            name="superlink",
            module=_SUPERLINK,
            settings={
                "host": listen.host,
                "port": listen.port,
                "public": public,
                "local": self._listening.fileno(),
                "token": self._door.token,
                "certificate": str(home.certificate),
                "key": str(home.certificate_key),
                "ca": str(home.authorities),
                "database": str(home.state),
                "home": str(home.folder),
            },
            environment=QUIET,
            descriptors=(self._listening.fileno(), *public),
        )

    # --- who may connect ---------------------------------------------------------------------

    def _enrol(self) -> None:
        """Let the nodes of the roster connect, and nobody else."""
        # Not by the calendar's clock, which may be set back.
        if time.monotonic() < self._next_enrolment:
            return
        self._reached = False
        wanted = self._sites = node_keys(self._home, now=datetime.now(UTC))
        with suppress(httpx.HTTPError), Operator(self._door) as operator:
            known = {_key(node.public_key): node for node in operator.nodes()}
            for key in wanted.keys() - known.keys():
                operator.register(key)
            for key in known.keys() - wanted.keys():
                operator.unregister(known[key].node_id)
            self._nodes = tuple(known[key] for key in wanted.keys() & known.keys())
            self._enrolled = self._reached = True
            self._next_enrolment = time.monotonic() + _ENROL_SECONDS
        self._say()

    # --- runs --------------------------------------------------------------------------------

    def _keep_runners(self) -> None:
        if not self._enrolled:
            return
        active = self._active()
        for name, child in list(self._runners.items()):
            if (code := child.ended()) is not None:
                self._ended(name, child, code)
                active = self._active()
            elif name not in active:
                child.ask_to_end()  # it was stopped; it ends between two steps
        for name, record in active.items():
            if name not in self._runners and self._pauses.setdefault(name, Backoff()).due:
                self._start(record)

    def _active(self) -> dict[str, RunRecord]:
        return {record.name: record for record in self._runs.all() if record.active}

    def _start(self, record: RunRecord) -> None:
        self._pauses[record.name].started()
        attempts = self._attempts.setdefault(record.name, _Attempts())
        attempts.superlinks, attempts.rounds = self.superlink_restarts, self._rounds(record.name)
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
        if name not in self._active():
            self._forget(name)
            return
        attempts, pause = self._attempts[name], self._pauses[name]
        if self._rounds(name) != attempts.rounds or pause.lasted > _QUICK_SECONDS:
            attempts.ends = 0
        elif self._own_fault(attempts, code):
            attempts.ends += 1
        seconds = pause.ended()
        if attempts.ends >= _MOST_QUICK_ENDS and self._fail(name, code):
            self._forget(name)
            return
        self.runner_restarts += 1
        _log.error("the runner of %s has ended (%d); started again in %.1f s", name, code, seconds)

    def _forget(self, name: str) -> None:
        self._pauses.pop(name, None)
        self._attempts.pop(name, None)

    def _own_fault(self, attempts: _Attempts, code: int) -> bool:
        """Whether a runner has not been killed, and nothing that it needs was away."""
        there = self._reached and attempts.superlinks == self.superlink_restarts
        return there and code > 0 and code != NOT_STARTED

    def _rounds(self, name: str) -> int:
        """Bytes that a run has written of its rounds."""
        with suppress(OSError):
            return (self._runs.folder / name / ROUNDS).stat().st_size
        return 0

    def _fail(self, name: str, code: int) -> bool:
        """Have a run fail that no restart helps; False: it could not be written."""
        why = (
            f"The program of this run ended {_MOST_QUICK_ENDS} times in a row soon after its start "
            f"(exit code {code}); the daemon's log says why. When that is mended, go on with "
            f"wardround-server resume {name}."
        )
        try:
            self._runs.change(name, "failed", why=why, only={"submitted", "running"})
            self._audit.append("failed", run=name)
        except (WardroundError, OSError) as error:
            _log.error("run %s cannot be ended: %s", name, error)
            return False
        _log.error("run %s: %s", name, why)
        return True


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


def _listening_at(host: str, port: int) -> tuple[socket.socket, ...]:
    """Sockets that listen at all addresses of a host.

    Raises:
        EnrolmentError: somebody else listens there, or it is no address of this machine.
    """
    end = time.monotonic() + _PORT_SECONDS
    while True:
        try:
            return _listeners(host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < end:
                time.sleep(_LOOK_SECONDS)
                continue
            raise EnrolmentError(
                f"{host}, port {port}: the public port cannot be opened ({_why(error)}); "
                "end what listens there, or name another under [listen] in server.toml."
            ) from error


def _listeners(host: str, port: int) -> tuple[socket.socket, ...]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    failure: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            opened.append(socket.create_server(address, family=family))
        except OSError as error:
            failure = error
            if error.errno not in _UNAVAILABLE:  # a name may stand for IPv6 too, which is not there
                break
    else:
        if opened:
            return tuple(opened)
    for one in opened:
        one.close()
    assert failure is not None
    raise failure


def _why(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)  # what Python says repeats the address


def _key(pem: bytes) -> bytes:
    return pem.strip() + b"\n"
