"""Children of a daemon, as real processes: each one that is started here is ended by its id."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from wardround_shared import supervision
from wardround_shared.errors import EnrolmentError, RunError
from wardround_shared.supervision import (
    NOT_STARTED,
    ORPHANED,
    Backoff,
    Child,
    Program,
    alone,
    free_port,
)

HERE = Path(__file__).parents[2] / "shared"

CHILD = """
import os, signal, sys, time
from pathlib import Path
from wardround_shared.supervision import child_settings

settings = child_settings()
if settings.get("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
said = Path(settings["says"])
words = f"{os.getpid()} {settings['secret']} {os.environ.get('EXTRA', '')} {sys.argv[1:]}"
said.with_suffix(".part").write_text(words)
said.with_suffix(".part").rename(said)
if settings.get("ends") is not None:
    sys.exit(settings["ends"])
time.sleep(60)
"""

PARENT = """
import sys, time
from wardround_shared.supervision import Child, Program

children = [
    Child(Program(name="child", module="a_child", settings={"says": says, "secret": "s"}))
    for says in sys.argv[1:]
]
time.sleep(60)
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    (tmp_path / "a_child.py").write_text(CHILD)
    (tmp_path / "a_parent.py").write_text(PARENT)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{HERE}")
    return tmp_path


def said_in(file, seconds=20):
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, "the child has said nothing"
        time.sleep(0.02)
    return file.read_text()


def is_there(pid):
    with suppress(FileNotFoundError):
        # An orphan that has ended may stay a zombie where nobody collects it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def gone(pid, seconds=10):
    end = time.monotonic() + seconds
    while is_there(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Family:
    """Children that are ended when the test is over."""

    def __init__(self, folder):
        self.folder = folder
        self.children = []

    def child(self, name="child", **settings):
        says = self.folder / f"{name}.said"
        program = Program(
            name=name,
            module="a_child",
            settings={"says": str(says), "secret": "open sesame"} | settings,
            environment={"EXTRA": "more"},
        )
        child = Child(program)
        self.children.append(child)
        return child, says


@pytest.fixture
def family(modules):
    made = Family(modules)
    yield made
    for child in made.children:
        if child.ended() is None:
            os.kill(child.pid, signal.SIGKILL)
        child.wait_for_end()


def test_a_child_gets_its_settings_and_no_command_line_tells_them(family):
    child, says = family.child()
    assert said_in(says) == f"{child.pid} open sesame more []"
    assert b"sesame" not in Path(f"/proc/{child.pid}/cmdline").read_bytes()
    assert b"sesame" not in Path(f"/proc/{child.pid}/environ").read_bytes()
    settings = {"secret": "open sesame"}
    assert "sesame" not in repr(Program(name="n", module="m", settings=settings))


def test_a_child_says_how_it_has_ended(family):
    child, _ = family.child(ends=7)
    assert child.wait_for_end(20) == 7
    assert child.ended() == 7
    child.ask_to_end()  # nobody else is told to end in its place


def test_a_child_ends_when_it_is_asked_to(family):
    child, says = family.child()
    said_in(says)
    assert child.ended() is None
    child.ask_to_end()
    assert child.wait_for_end() == -signal.SIGTERM


def test_a_child_that_does_not_listen_is_killed(family):
    child, says = family.child(deaf=True)
    other, other_says = family.child("other")
    said_in(says)
    said_in(other_says)
    child.ask_to_end()
    assert child.wait_for_end(0.2) == -signal.SIGKILL
    assert other.ended() is None


def test_a_child_that_dies_at_once_ends_nobody_else(modules, monkeypatch):
    """A daemon would die with it, and nothing would be started again."""
    start = subprocess.Popen

    def dead(*arguments, **settings):
        process = start(*arguments, **settings)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return process

    monkeypatch.setattr(supervision.subprocess, "Popen", dead)
    (modules / "dies.py").write_text("import sys; sys.exit(7)")
    child = Child(Program(name="child", module="dies", settings={"secret": "s"}))
    assert child.ended() == 7
    assert child.wait_for_end() == 7


def test_a_child_that_cannot_be_started_has_ended(modules, monkeypatch):
    def full(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(supervision.subprocess, "Popen", full)
    child = Child(Program(name="child", module="a_child", settings={}))
    child.ask_to_end()
    assert (child.ended(), child.wait_for_end(), child.pid) == (NOT_STARTED, NOT_STARTED, None)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nobody_outlives_a_parent_that_was_killed(modules, how):
    says = [modules / "one", modules / "two"]
    parent = subprocess.Popen([sys.executable, "-m", "a_parent", *map(str, says)])
    pids = []
    try:
        pids = [int(said_in(file).split()[0]) for file in says]
        assert all(is_there(pid) for pid in pids)
        os.kill(parent.pid, how)
        parent.wait(10)
        assert all(gone(pid) for pid in pids)
    finally:
        parent.kill()
        parent.wait()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_child_whose_parent_is_gone_says_so_with_its_exit_code(family):
    child, says = family.child()
    said_in(says)
    child._process.stdin.close()  # as the end of the parent does
    assert child._process.wait(10) == ORPHANED


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_what_keeps_ending_is_started_again_after_longer_and_longer():
    clock = Clock()
    backoff = Backoff(clock)
    assert backoff.due
    pauses = []
    for _ in range(10):
        backoff.started()
        pauses.append(backoff.ended())
        assert not backoff.due
        clock.now += pauses[-1] - 0.01
        assert not backoff.due
        clock.now += 0.02
        assert backoff.due
    assert pauses[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert pauses[-2:] == [20.0, 20.0]
    assert pauses == sorted(pauses)


def test_what_had_run_for_long_begins_anew():
    clock = Clock()
    backoff = Backoff(clock)
    for _ in range(8):
        backoff.started()
        backoff.ended()
    backoff.started()
    clock.now += 61
    assert backoff.ended() == pytest.approx(0.2)


def test_one_daemon_serves_a_home_and_its_lock_ends_with_it(tmp_path):
    with alone(tmp_path):
        with pytest.raises(RunError, match="another daemon"), alone(tmp_path):
            pytest.fail("two daemons")
        code = (
            "import sys\nfrom pathlib import Path\n"
            "from wardround_shared.supervision import alone\n"
            "with alone(Path(sys.argv[1])): pass\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        environment = os.environ | {"PYTHONPATH": str(HERE)}
        other = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert other.returncode == 1
        assert "another daemon serves this home" in other.stderr
    with alone(tmp_path):
        pass
    assert (tmp_path / "daemon.lock").stat().st_mode & 0o777 == 0o600


def test_a_home_that_cannot_be_written_is_said_in_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "daemon.lock").mkdir()
    with pytest.raises(EnrolmentError, match=r"Is a directory.*chown"), alone(tmp_path):
        pytest.fail("alone")
    (tmp_path / "daemon.lock").rmdir()

    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(supervision.fcntl, "flock", no_locks)
    with pytest.raises(EnrolmentError, match="No locks available"), alone(tmp_path):
        pytest.fail("alone")


def test_a_free_port_can_be_listened_at():
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", free_port()))
