"""Real daemons on this machine: a server and its sites, as processes that a test may kill.

Every process is started here and ended here, by its id. Homes are made through the commands that
people type; what they print is checked by the tests of the commands.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from hospitals import STUDY, write_hospital
from typer.testing import CliRunner

from wardround_client.approvals import Approvals
from wardround_client.cli import app as site_commands
from wardround_client.enrolment.home import SiteHome
from wardround_client.ledger import Ledger
from wardround_server.cli import app as server_commands
from wardround_server.enrolment.home import ServerHome
from wardround_shared.audit_log import verify
from wardround_shared.study import load_study, study_text

T = TypeVar("T")

LOOK_SECONDS = 0.02
"""How often a condition is looked at: a step of a round takes longer."""

END_SECONDS = 25.0
"""A daemon gives its children ten seconds to end, one after the other."""

RECOVERY_SECONDS = 120.0
"""The longest that a run may stand still after a crash, on two busy cores."""

SUPERLINK = "wardround_server.daemon.superlink"
RUNNER = "wardround_server.daemon.runner"
SUPERNODE = "wardround_client.daemon.supernode"
WORKER = "wardround_client.daemon.worker"

# A test run that is killed runs no finalizer.
WITH_US = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
"""Before a command: it is asked to end when this process is gone, however that happens."""

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def until(
    condition: Callable[[], T],
    what: str,
    *,
    seconds: float = RECOVERY_SECONDS,
    told: Callable[[], str] = str,
) -> T:
    """What `condition` gives as soon as it is true; the test fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}\n{told()}")
        time.sleep(LOOK_SECONDS)
    return found


def command(app: Any, *arguments: object, fails: bool = False) -> str:
    """What a command prints; it has to end as expected."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert (result.exit_code != 0) == fails, f"{arguments}: {result.output}{result.exception!r}"
    return result.output


def records(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines that is being written."""
    with suppress(FileNotFoundError):
        text = file.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n")[:-1]]
    return []


def unused_port() -> int:
    """A port that nobody listens at, and that no outgoing connection will be given meanwhile."""
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


# --- processes -----------------------------------------------------------------------------------


def children(pid: int) -> dict[int, list[str]]:
    """Process id -> command line, of the children of a process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name of a program may hold blanks and brackets.
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                line = (folder / "cmdline").read_bytes().decode(errors="replace")
                found[int(folder.name)] = line.split("\0")
    return found


def alive(pid: int) -> bool:
    """Whether a process is there, and is more than an entry that nobody has read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Daemon:
    """`wardround-server start` or `wardround-site start`, and its children."""

    def __init__(self, program: str, home: Path, *, log: Path) -> None:
        self.home = home
        self.log = log
        self.prefix: Sequence[str] = ()
        self.environment: dict[str, str] = {}
        self._arguments = [str(Path(sys.executable).parent / program), "start", "--home", str(home)]
        self._process: subprocess.Popen[bytes] | None = None
        self._known: set[int] = set()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, as a machine that comes up would."""
        assert not self.running
        inherited = {k: v for k, v in os.environ.items() if k.lower() not in PROXIES}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*WITH_US, *self.prefix, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=inherited | {"OMP_NUM_THREADS": "1"} | self.environment,
                start_new_session=True,
            )

    def child(self, module: str) -> int | None:
        """Id of the child that runs a module, if there is one now."""
        if not self.running:
            return None
        for pid, line in children(self.pid).items():
            if module in line:
                self._known.add(pid)
                return pid
        return None

    def processes(self) -> list[int]:
        """Ids of the daemon and its children."""
        found = [self.pid, *children(self.pid)] if self.running else []
        self._known.update(found)
        return found

    def kill_child(self, module: str) -> int:
        """SIGKILL for one child, which has to be there soon."""
        pid = until(lambda: self.child(module), f"a process of {module}", told=self.tail)
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill(self) -> None:
        """SIGKILL for the daemon alone: its children have to end by themselves."""
        left = self.processes()
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        until(
            lambda: not any(map(alive, left)),
            f"the end of {left}, whose parent is gone",
            seconds=10,
        )

    def power_cut(self) -> None:
        """SIGKILL for the daemon and all its children at once."""
        left = self.processes()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        until(lambda: not any(map(alive, left)), f"the end of {left}", seconds=10)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self._process is not None
        self.processes()
        self._process.terminate()
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.power_cut()
            raise AssertionError(f"the daemon of {self.home} does not end\n{self.tail()}") from None

    def close(self) -> None:
        """Whatever has happened, nothing that it started is left."""
        if self.running:
            try:
                self.stop()
            finally:
                self._end_the_rest()
        else:
            self._end_the_rest()

    def _end_the_rest(self) -> None:
        # Only what still is a process of this software: an id may be somebody else's by now.
        for pid in self._known:
            with suppress(OSError):
                if b"wardround" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)

    @property
    def audit(self) -> list[dict[str, Any]]:
        """Lines of the audit log."""
        return records(self.home / "audit.jsonl")

    def events(self, run: str) -> list[tuple[str, int]]:
        """Event and round of what it did in a run, in order."""
        return [
            (one["event"], one["round"])
            for one in self.audit
            if one.get("run") == run and "round" in one
        ]

    def tail(self, lines: int = 25) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"--- {self.log.name}\n" + "\n".join(text.splitlines()[-lines:])


# --- the server ----------------------------------------------------------------------------------


class Server(Daemon):
    """The coordinating centre."""

    def __init__(self, folder: Path, *, host: str = "localhost", listen: str = "127.0.0.1") -> None:
        super().__init__("wardround-server", folder / "server", log=folder / "server.log")
        self.port, self.address = unused_port(), host
        self.metrics_port = unused_port()
        self(
            "init",
            *("--address", f"{host}:{self.port}", "--listen-host", listen),
            *("--health-port", unused_port(), "--metrics-port", self.metrics_port),
        )

    def __call__(self, *arguments: object, fails: bool = False) -> str:
        """`wardround-server ARGUMENTS --home ...`; what it prints."""
        return command(server_commands, *arguments, "--home", self.home, fails=fails)

    @property
    def files(self) -> ServerHome:
        """Where everything lies."""
        return ServerHome(folder=self.home)

    def overview(self) -> dict[str, Any]:
        """`status --json`."""
        content: dict[str, Any] = json.loads(self("status", "--json"))
        return content

    def online(self) -> set[str]:
        """Sites that the daemon says are connected."""
        return {one["site"] for one in self.overview()["sites"] if one["online"]}

    def forget_nodes(self) -> None:
        """Remove what the daemon said of connections, so that what is read later is newer."""
        (self.home / "daemon.json").unlink(missing_ok=True)


@dataclass
class Run:
    """A run at the server."""

    name: str
    server: Server
    study_id: str

    @property
    def folder(self) -> Path:
        return self.server.home / "runs" / self.name

    @property
    def record(self) -> dict[str, Any]:
        return self._json("run.json")

    @property
    def state(self) -> str:
        return str(self.record["state"])

    @property
    def ended(self) -> bool:
        """Whether nothing happens in it any more."""
        return self.state in {"finished", "failed", "stopped"}

    @property
    def status(self) -> dict[str, Any]:
        """What the runner last said; nothing before it has."""
        return self._json("status.json")

    @property
    def summary(self) -> dict[str, Any]:
        return self._json("summary.json")

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """Lines of rounds.jsonl that are of training."""
        return [line for line in records(self.folder / "rounds.jsonl") if "final" not in line]

    @property
    def roster(self) -> list[dict[str, Any]]:
        return records(self.folder / "roster.jsonl")

    @property
    def model(self) -> bytes:
        return (self.folder / "model.safetensors").read_bytes()

    def finish(self, *, seconds: float = RECOVERY_SECONDS) -> None:
        """Wait for its end, which has to be a good one."""
        until(
            lambda: self.ended,
            f"the end of {self.name}",
            seconds=seconds,
            told=lambda: f"{self.status}\n{self.server.tail()}",
        )
        assert self.state == "finished", f"{self.record}\n{self.server.tail()}"

    def reach(self, round_number: int, *, seconds: float = RECOVERY_SECONDS) -> None:
        """Wait for a round to be asked for."""
        until(
            lambda: self.status.get("round", 0) >= round_number,
            f"round {round_number} of {self.name}",
            seconds=seconds,
            told=lambda: f"{self.status}\n{self.server.tail()}",
        )

    def _json(self, name: str) -> dict[str, Any]:
        with suppress(FileNotFoundError):
            content: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
            return content
        return {}


# --- a site --------------------------------------------------------------------------------------

DATA_SET = "clinic"


class Hospital(Daemon):
    """A site: its home, its data and its daemon."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__("wardround-site", folder / name, log=folder / f"{name}.log")
        self.name = name
        self._files = folder
        self("init", name)

    def __call__(self, *arguments: object, fails: bool = False) -> str:
        """`wardround-site ARGUMENTS --home ...`; what it prints."""
        return command(site_commands, *arguments, "--home", self.home, fails=fails)

    @property
    def files(self) -> SiteHome:
        """Where everything lies."""
        return SiteHome(folder=self.home)

    def refusals(self) -> list[str]:
        """Reasons of what was refused, the last one last."""
        return [one.get("reason", "") for one in self.audit if one["event"] == "refused"]

    def enrol(self, server: Server) -> None:
        """Both files and both telephone calls."""
        request = self._files / f"{self.name}.wardround-request"
        self("join", "--request", request)
        self.accept(server, request)

    def accept(self, server: Server, request: Path) -> None:
        """Have a request admitted, and take the answer."""
        answer = request.with_suffix(".wardround-answer")
        spoken = server("admit", request, "--answer", answer, "--yes").strip().splitlines()[-1]
        self("join", "--answer", answer, "--fingerprint", spoken.strip())

    def has(self, data: Path, *, source: str = "table", **rules: str) -> None:
        """Add its data, and change rules of its policy."""
        self("data", "add", DATA_SET, data, "--source", source)
        self.allow(**rules)

    def allow(self, **rules: str) -> None:
        """Change rules of the policy; values as in TOML."""
        file = self.home / "policy.toml"
        lines = file.read_text(encoding="utf-8").splitlines()
        for name, value in rules.items():
            key = name.replace("_", "-")
            lines = [f"{key} = {value}" if line.startswith(f"{key} =") else line for line in lines]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        tomllib.loads(file.read_text(encoding="utf-8"))

    def approve(self, text: str) -> str:
        """Approve a study before it is offered, as if it had been; its id."""
        study = Approvals(self.files.studies).keep(text)
        self("study", "approve", study.study_id, "--data", DATA_SET, "--yes")
        return study.study_id

    def payments(self, run: str) -> list[tuple[int, str]]:
        """Round and state of each reservation of a run."""
        entries = Ledger.open(self.home, site=None).entries()
        return [(one.purpose.round, one.state) for one in entries if one.purpose.run == run]


# --- all of them ---------------------------------------------------------------------------------


def small_study(folder: Path) -> Path:
    """The small table study as a file."""
    file = folder / "small.toml"
    file.write_text(STUDY, encoding="utf-8")
    return file


@dataclass
class Consortium:
    """A server and its sites, enrolled, with data of their own."""

    folder: Path
    server: Server
    sites: dict[str, Hospital] = field(default_factory=dict)

    @classmethod
    def found(
        cls, folder: Path, names: Sequence[str], *, server: Server | None = None, **rules: str
    ) -> Self:
        """Enrol these sites; nothing is started."""
        made = cls(folder=folder, server=server or Server(folder))
        for name in names:
            made.add(name, **rules)
        return made

    def add(self, name: str, *, data: Path | None = None, **rules: str) -> Hospital:
        """One more site, enrolled, with data that are written on the spot unless given."""
        site = Hospital(self.folder, name)
        site.enrol(self.server)
        if data is None:
            data = self.folder / "data" / name
            data.mkdir(parents=True)
            write_hospital(data / f"{name}.csv", seed=len(self.sites))
        site.has(data, **rules)
        self.sites[name] = site
        return site

    @property
    def daemons(self) -> list[Daemon]:
        return [self.server, *self.sites.values()]

    def start(self) -> None:
        """Start everything, and wait until all sites are connected."""
        for daemon in self.daemons:
            if not daemon.running:
                daemon.start()
        self.wait_online(*self.sites)

    def wait_online(self, *names: str) -> None:
        """Wait until the server says that these sites are connected; it says so every 2 s."""
        until(lambda: self.server.online() >= set(names), f"{names} connected", told=self.tails)

    def close(self) -> None:
        """End everything that runs, also if one of them does not want to."""
        faults = []
        for daemon in reversed(self.daemons):
            try:
                daemon.close()
            except AssertionError as error:
                faults.append(str(error))
        assert not faults, "\n".join(faults)

    def submit(
        self, study: Path, name: str, *overrides: str, approve: bool = True, seed: int = 0
    ) -> Run:
        """A run of all sites, which approve the study unless told otherwise."""
        loaded = load_study(study, overrides=list(overrides))
        if approve:
            for site in self.sites.values():
                site.approve(study_text(loaded))
        settings = [part for one in overrides for part in ("--set", one)]
        members = [part for one in self.sites for part in ("--site", one)]
        self.server("submit", study, "--name", name, "--seed", seed, *settings, *members)
        return Run(name=name, server=self.server, study_id=loaded.study_id)

    def audit_faults(self) -> list[str]:
        """What is wrong with any audit log."""
        return [fault for one in self.daemons for fault in verify(one.home / "audit.jsonl")]

    def tails(self) -> str:
        """The ends of all logs."""
        return "\n".join(daemon.tail() for daemon in self.daemons)


@contextmanager
def started(consortium: Consortium) -> Iterator[Consortium]:
    """The consortium at work; everything is ended at the end."""
    try:
        consortium.start()
        yield consortium
    finally:
        consortium.close()
