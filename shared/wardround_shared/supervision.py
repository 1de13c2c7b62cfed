"""Child processes of a daemon: started with settings, ended with their parent, started again.

A child reads its settings as the first line of its standard input, so that secrets stand in no
command line and no environment, and takes the end of that input for the end of its parent: even a
parent that was killed leaves nobody behind.
"""

import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wardround_shared.errors import EnrolmentError, RunError

_log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""A child that has not ended so long after SIGTERM is killed."""

ORPHANED = 75
"""Exit code of a child whose parent is gone."""

RENEW = 3
"""Exit code of a child that asks to be started anew, at once."""

NOT_STARTED = os.EX_OSERR
"""Exit code of a child that this machine could not start: too many processes, or no memory."""

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
    """A running program; one that cannot be started is one that has ended."""

    def __init__(self, program: Program) -> None:
        self.name = program.name
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", program.module],
                stdin=subprocess.PIPE,
                env={**os.environ, **program.environment},
                pass_fds=program.descriptors,
            )
        except OSError as error:
            _log.error("%s cannot be started (%s)", self.name, error.strerror)
            return
        assert self._process.stdin is not None
        # Who does not read has ended, and its exit code says so.
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(dict(program.settings)).encode() + b"\n")
            self._process.stdin.flush()

    @property
    def pid(self) -> int | None:
        """Its process id; none if it was not started."""
        return None if self._process is None else self._process.pid

    def ended(self) -> int | None:
        """Its exit code, once it has ended."""
        return NOT_STARTED if self._process is None else self._process.poll()

    def ask_to_end(self) -> None:
        """SIGTERM, unless it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait_for_end(self, seconds: float = GRACE_SECONDS) -> int:
        """Its exit code; it is killed if it has not ended after so long."""
        if self._process is None:
            return NOT_STARTED
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            _log.warning("%s does not end and is killed", self.name)
            self._process.kill()
            code = self._process.wait()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # what it has not read
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

    @property
    def lasted(self) -> float:
        """Seconds since the last start."""
        return self._clock() - self._started

    def started(self) -> None:
        """Note a start."""
        self._started = self._clock()

    def ended(self) -> float:
        """Note an end; returns the pause in seconds. What had run for long begins anew."""
        settled = self.lasted > _SETTLED
        self._pause = (
            _FIRST_PAUSE if settled or not self._pause else min(2 * self._pause, _LONGEST_PAUSE)
        )
        self._next = self._clock() + self._pause
        return self._pause


class Ending:
    """SIGTERM and SIGINT, as something to look at between two looks."""

    def __init__(self) -> None:
        """From now on both only ask this process to end."""
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def wait(self, seconds: float) -> bool:
        """Wait for the next look; whether it was asked to end, and there shall be none."""
        if not self._asked:
            time.sleep(seconds)
        return self._asked

    def _ask(self, *_: object) -> None:
        # No more than this: a handler that takes a lock may wait for the very code it interrupts.
        self._asked = True


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
        EnrolmentError: the home cannot be written.
    """
    lock = folder / "daemon.lock"
    try:
        file = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise EnrolmentError(
            f"{lock}: cannot be written ({error.strerror}); start the daemon as the user to whom "
            "the home belongs, or give that user the folder with chown."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise RunError(
            f"{folder}: another daemon serves this home already; stop it first."
        ) from error
    except OSError as error:
        os.close(file)
        raise EnrolmentError(
            f"{lock}: cannot be locked ({error.strerror}); the home has to lie on a disk of this "
            "machine."
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
