"""The health check of a site's container: it sees a daemon that is gone or hung, and no other."""

import inspect
import os
import subprocess
import sys

import pytest

from wardround_client.daemon import service
from wardround_client.daemon.pulse import FILE, LONGEST_SECONDS, Pulse, alive, main


class Clock:
    def __init__(self):
        self.now = 5000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_home_without_a_daemon_is_not_alive(tmp_path):
    assert not alive(tmp_path)


def test_a_daemon_is_alive_until_it_has_not_beaten_for_long(tmp_path, clock):
    Pulse(tmp_path, clock).beat()
    clock.now += LONGEST_SECONDS - 1
    assert alive(tmp_path, clock)
    clock.now += 2
    assert not alive(tmp_path, clock)


@pytest.mark.parametrize("now", [0.0, 0.99, 5000.96, 1e7 + 0.5])
def test_a_daemon_is_alive_at_the_moment_of_its_beat(tmp_path, clock, now):
    clock.now = now
    Pulse(tmp_path, clock).beat()
    assert alive(tmp_path, clock)


def test_beating_often_writes_seldom_and_keeps_it_alive(tmp_path, clock):
    pulse, written = Pulse(tmp_path, clock), set()
    for _ in range(2000):
        pulse.beat()
        assert alive(tmp_path, clock)
        written.add((tmp_path / FILE).read_bytes())
        clock.now += 0.5
    assert 90 <= len(written) <= 101


def test_the_pulse_of_before_the_machine_was_started_again_does_not_count(tmp_path, clock):
    Pulse(tmp_path, clock).beat()
    clock.now = 30.0
    assert not alive(tmp_path, clock)


@pytest.mark.parametrize("content", [b"", b"nan", b"soon", b"\xff\xff"], ids=repr)
def test_a_damaged_pulse_is_none(tmp_path, clock, content):
    (tmp_path / FILE).write_bytes(content)
    assert not alive(tmp_path, clock)


def test_only_the_sites_user_reads_it(tmp_path):
    Pulse(tmp_path).beat()
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_a_home_that_cannot_be_written_does_not_end_the_daemon(tmp_path):
    Pulse(tmp_path / "gone").beat()


def test_the_check_ends_with_exit_code_0_or_1(tmp_path):
    command = [sys.executable, "-m", "wardround_client.daemon.pulse"]
    environment = {**os.environ, "WARDROUND_SITE_HOME": str(tmp_path)}

    def ask():
        return subprocess.run(command, env=environment, capture_output=True, check=False)

    refused = ask()
    assert (refused.returncode, b"no daemon" in refused.stderr) == (1, True)
    Pulse(tmp_path).beat()
    assert ask().returncode == 0


def test_without_a_home_the_check_fails_in_a_sentence(monkeypatch):
    monkeypatch.delenv("WARDROUND_SITE_HOME", raising=False)
    with pytest.raises(SystemExit, match="WARDROUND_SITE_HOME"):
        main()


def test_the_daemon_has_a_pulse():
    """Without it, every container of a site would be ended for not being alive."""
    assert ".beat()" in inspect.getsource(service)
