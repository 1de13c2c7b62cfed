"""The systemd units: what systemd says of them, and what must stand in them in any case."""

import re
import shutil
import subprocess

import pytest

UNITS = {
    "wardround-server": "server/wardround-server.service",
    "wardround-site": "site/wardround-site.service",
}
EXPOSURE = {"wardround-server": 1.5, "wardround-site": 1.5, "wardround-site-gpu": 1.7}
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not here")


@pytest.fixture(params=[*UNITS, "wardround-site-gpu"])
def installed(request, deploy, tmp_path):
    """Name and file of a unit as the runbook installs it, with a program that is there."""
    name = request.param.removesuffix("-gpu")
    text = (deploy / UNITS[name]).read_text(encoding="utf-8")
    program = tmp_path / name
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    unit = tmp_path / f"{name}.service"
    unit.write_text(text.replace(f"/opt/wardround/bin/{name}", str(program)), encoding="utf-8")
    if request.param != name:
        drop_ins = tmp_path / f"{unit.name}.d"
        drop_ins.mkdir()
        shutil.copy(deploy / "site" / "wardround-site-gpu.conf", drop_ins / "gpu.conf")
    return request.param, unit


@needs_systemd
def test_systemd_understands_every_line(installed):
    _, unit = installed
    said = subprocess.run(
        [ANALYZE, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    complaints = [line for line in said.stderr.splitlines() if unit.name in line]
    assert (said.returncode, complaints) == (0, [])


@needs_systemd
def test_systemd_would_notice_a_misspelt_line(installed):
    _, unit = installed
    text = unit.read_text(encoding="utf-8").replace("ProtectHome=", "ProtectHouse=")
    unit.write_text(text, encoding="utf-8")
    said = subprocess.run(
        [ANALYZE, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert "ProtectHouse" in said.stderr


@needs_systemd
def test_little_is_exposed(installed):
    name, unit = installed
    threshold = f"--threshold={round(10 * EXPOSURE[name])}"
    said = subprocess.run(
        [ANALYZE, "security", "--offline=true", "--no-pager", threshold, str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout


def settings_of(text):
    """Key -> values of a unit file."""
    found = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", text, flags=re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", UNITS)
def test_what_a_daemon_needs_and_promises(deploy, name):
    unit = settings_of((deploy / UNITS[name]).read_text(encoding="utf-8"))
    variable = name.upper().replace("-", "_") + "_HOME"
    assert unit["ExecStart"] == [f"/opt/wardround/bin/{name} start"]
    assert unit["User"] == unit["Group"] == unit["StateDirectory"] == [name]
    assert unit["StateDirectoryMode"] == ["0700"]
    assert unit["UMask"] == ["0077"]
    assert f"{variable}=/var/lib/{name}" in unit["Environment"]
    assert unit["RestrictAddressFamilies"] == ["AF_INET AF_INET6 AF_UNIX"]
    assert unit["LimitCORE"] == ["0"]
    assert unit["KillMode"] == ["mixed"]
    assert int(unit["TimeoutStopSec"][0]) > 20


def test_only_the_server_may_do_without_writing_machine_code(deploy):
    server, site = (
        settings_of((deploy / file).read_text(encoding="utf-8")) for file in UNITS.values()
    )
    assert server["MemoryDenyWriteExecute"] == ["yes"]
    assert "MemoryDenyWriteExecute" not in site
