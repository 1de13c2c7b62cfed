"""A free port, and the command as a process of its own."""

import socket
import subprocess
import sys

import pytest


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def command():
    """Start `wardround ...`; ended with the test."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        line = [sys.executable, "-m", "wardround_simulations", *arguments]
        started.append(subprocess.Popen(line))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
