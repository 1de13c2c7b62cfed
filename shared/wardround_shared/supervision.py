"""Child processes of a daemon: started with settings, ended with their parent, started again.

A child reads its settings as the first line of its standard input, so that secrets stand in no
command line and no environment, and takes the end of that input for the end of its parent: even a
parent that was killed leaves nobody behind.
"""

import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wardround_shared.errors import RunError

_log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""A child that has not ended so long after SIGTERM is killed."""

ORPHANED = 75
"""Exit code of a child whose parent is gone."""

RENEW = 3
"""Exit code of a child that asks to be started anew, at once."""

_FIRST_PAUSE, _LONGEST_PAUSE, _SETTLED = 0.2, 20.0, 60.0


@dataclass(frozen=True, kw_only=True)
class Program:
    """A Python module that runs as a child.

    Attributes:
        name: for people.
        module: run with `python -m`.
        settings: what it reads first.
        environment: added to the daemon's own.
        descriptors: file descriptors that it inherits.
    """

    name: str
    module: str
    settings: Mapping[str, Any] = field(repr=False)
    environment: Mapping[str, str] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()


class Child:
    """A running program."""

    def __init__(self, program: Program) -> None:
        """Start it.

        Raises:
            OSError: it cannot be started.
        """
        self.name = program.name
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", program.module],
            stdin=subprocess.PIPE,
            env={**os.environ, **program.environment},
            pass_fds=program.descriptors,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(dict(program.settings)).encode() + b"\n")
        self._process.stdin.flush()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ended(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.poll()

    def ask_to_end(self) -> None:
        """SIGTERM, unless it has ended."""
        if self._process.poll() is None:
            self._process.terminate()

    def wait_for_end(self, seconds: float = GRACE_SECONDS) -> int:
        """Its exit code; it is killed if it has not ended after so long."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            _log.warning("%s does not end and is killed", self.name)
            self._process.kill()
            code = self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code


class Backoff:
    """How long to wait before something that ended is started again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause = 0.0
        self._started = clock()
        self._next = self._started

    @property
    def due(self) -> bool:
        """Whether it may be started now."""
        return self._clock() >= self._next

    def started(self) -> None:
        """Note a start."""
        self._started = self._clock()

    def ended(self) -> float:
        """Note an end; returns the pause in seconds. What had run for long begins anew."""
        settled = self._clock() - self._started > _SETTLED
        self._pause = (
            _FIRST_PAUSE if settled or not self._pause else min(2 * self._pause, _LONGEST_PAUSE)
        )
        self._next = self._clock() + self._pause
        return self._pause


def free_port() -> int:
    """A port of the loopback interface that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One daemon for one home; the lock ends with the process.

    Raises:
        RunError: there is another one.
    """
    file = os.open(folder / "daemon.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise RunError(
            f"{folder}: another daemon serves this home already; stop it first."
        ) from error
    try:
        yield
    finally:
        os.close(file)


def child_settings() -> dict[str, Any]:
    """In a child: its settings. From now on it ends when its parent does."""
    settings: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True, name="lifeline").start()
    return settings


def log_as(name: str) -> None:
    """Log to standard error as this child does: what is worth a line, once, with its name."""
    logging.basicConfig(level=logging.WARNING, format=f"{name} %(levelname)s %(message)s")
    flower = logging.getLogger("flwr")
    flower.setLevel(logging.WARNING)
    flower.handlers.clear()  # it has one of its own, and would say everything twice


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    # At once: nobody is there to take what an orderly end would hand over.
    os._exit(ORPHANED)
