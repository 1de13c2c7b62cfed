"""What lies at the site: each fault is named with a remedy, and nothing is changed by looking."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wardround_client.doctor import Finding, Machine, examine
from wardround_client.doctor.machine import (
    FEW_BYTES,
    LITTLE_BYTES,
    check_disk,
    check_gpu,
    check_permissions,
    check_versions,
)
from wardround_client.doctor.records import (
    check_audit_log,
    check_keys,
    check_ledger,
    check_policy,
    check_roster,
)
from wardround_shared.flower import TESTED

CHECKS = [
    "proxy",
    "name",
    "connection",
    "tls",
    "dates",
    "clock",
    "disk",
    "permissions",
    "gpu",
    "versions",
    "keys",
    "policy",
    "ledger",
    "audit log",
    "roster",
]


def content(folder):
    """Every file below a folder, as it is."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_site_in_order_is_ok_in_everything_and_stays_as_it_is(home, machine, tls_server):
    examined = replace(home.examined, server=f"127.0.0.1:{tls_server().port}")
    before = content(examined.home)
    findings = list(examine(examined, machine()))
    assert [finding.check for finding in findings] == CHECKS
    assert [f for f in findings if f.state != "ok"] == []
    assert content(examined.home) == before


def test_what_lies_here_is_looked_at_also_without_a_server(home, machine):
    findings = list(examine(replace(home.examined, server=None), machine()))
    assert [finding.check for finding in findings] == ["server", *CHECKS[6:14]]


def test_a_remedy_goes_with_a_fault_only():
    with pytest.raises(ValueError, match="remedy"):
        Finding(check="x", state="ok", sentence="y.", remedy="z")
    with pytest.raises(ValueError, match="remedy"):
        Finding(check="x", state="fail", sentence="y.")


def test_this_machine_can_be_asked():
    machine = Machine()
    assert machine.flwr() == TESTED
    assert machine.free_bytes(Path.cwd()) > 0
    assert machine.now().tzinfo is not None
    assert machine.addresses("127.0.0.1", 80) == ["127.0.0.1"]


# --- the machine -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "state"),
    [
        (FEW_BYTES, "ok"),
        (FEW_BYTES - 1, "warn"),
        (LITTLE_BYTES, "warn"),
        (LITTLE_BYTES - 1, "fail"),
    ],
)
def test_a_disk_that_fills_up_is_told_in_time(home, machine, free, state):
    assert check_disk(home.examined, machine(free_bytes=lambda _: free)).state == state


def test_a_home_that_is_not_there_is_told(home, machine, tmp_path):
    nowhere = replace(home.examined, home=tmp_path / "nowhere")
    finding = check_disk(nowhere, Machine())
    assert finding.state == "fail"
    assert check_permissions(nowhere).state == "fail"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_keys_that_others_can_read_are_told_with_the_command(home, mode):
    home.examined.keys.identity.chmod(mode)
    finding = check_permissions(home.examined)
    assert finding.state == "fail"
    assert finding.remedy == f"chmod 600 {home.examined.keys.identity}"


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o770])
def test_a_home_that_others_can_enter_is_told(home, mode):
    home.examined.home.chmod(mode)
    assert check_permissions(home.examined).remedy == f"chmod 700 {home.examined.home}"


def test_files_of_another_user_are_told(home, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    finding = check_permissions(home.examined)
    assert finding.state == "fail"
    assert "another user" in finding.sentence


def test_a_key_that_is_gone_is_told(home):
    home.examined.keys.identity.unlink()
    assert check_permissions(home.examined).state == "fail"


@pytest.mark.parametrize(
    ("device", "gpu", "state"),
    [
        ("cuda", None, "fail"),
        ("cuda", "A100", "ok"),
        ("auto", None, "ok"),
        ("auto", "A100", "ok"),
    ],
)
def test_the_gpu_is_what_the_policy_wants(home, machine, device, gpu, state):
    home.examined.policy.write_text(f'[rules]\ndevice = "{device}"\n')
    finding = check_gpu(home.examined, machine(gpu=lambda: gpu))
    assert finding.state == state
    assert (gpu or "GPU") in finding.sentence


def test_without_need_no_gpu_is_looked_for(home, machine):
    home.examined.policy.write_text('[rules]\ndevice = "cpu"\n')
    assert check_gpu(home.examined, machine(gpu=lambda: pytest.fail("looked"))).state == "ok"


def test_another_flower_is_told_with_the_command(machine):
    finding = check_versions(machine(flwr=lambda: "1.42.0"))
    assert finding.state == "fail"
    assert finding.remedy == f"pip install flwr=={TESTED}"
    assert "protocol 1" in check_versions(machine()).sentence


# --- records -----------------------------------------------------------------------------------


def test_a_policy_with_a_fault_is_told_with_its_key(home, machine):
    home.examined.policy.write_text('[rules]\nhours = "night"\n')
    finding = check_policy(home.examined)
    assert finding.state == "fail"
    assert "rules.hours" in finding.sentence
    assert check_gpu(home.examined, machine()).state == "ok"


def test_a_ledger_that_is_not_sound_is_told(home):
    assert check_ledger(home.examined).state == "ok"
    assert check_ledger(replace(home.examined, name="south")).state == "fail"
    (home.examined.home / "keys" / "ledger.anchor").unlink()
    finding = check_ledger(home.examined)
    assert finding.state == "fail"
    assert "docs/ledger.md" in finding.remedy


def test_an_audit_log_that_was_edited_is_told(home):
    path = home.examined.audit_log
    assert "head is 1:" in check_audit_log(home.examined).sentence
    path.write_text(path.read_text().replace("north", "south"))
    finding = check_audit_log(home.examined)
    assert finding.state == "fail"
    assert "Line 1" in finding.sentence
    path.unlink()
    assert check_audit_log(home.examined).state == "warn"


def test_a_roster_without_this_site_is_told(home):
    home.write_roster(home.lines[1:], version=4)
    finding = check_roster(home.examined, "north")
    assert finding.state == "fail"
    assert "north, is not in version 4" in finding.sentence


def test_a_roster_with_other_keys_of_this_site_is_told(home):
    home.examined.keys.identity.write_bytes(os.urandom(32))
    assert "another identity key" in check_roster(home.examined, "north").sentence
    home.examined.keys.identity.write_bytes(b"short")
    finding = check_roster(home.examined, "north")
    assert finding.state == "fail"
    assert "cannot be seen" in finding.sentence


@pytest.mark.parametrize("name", ["identity", "node"])
@pytest.mark.parametrize("fault", ["gone", "damaged", "open"])
def test_a_key_that_cannot_be_used_is_told_with_what_to_do(home, name, fault):
    assert check_keys(home.examined).state == "ok"
    file = getattr(home.examined.keys, name)
    if fault == "gone":
        file.unlink()
    elif fault == "damaged":
        file.write_bytes(b"no key")
    else:
        file.chmod(0o644)
    finding = check_keys(home.examined)
    assert finding.state == "fail"
    assert str(file) in finding.sentence


def test_without_settings_everything_else_is_looked_at(home, machine):
    damaged = replace(home.examined, name=None, server=None, settings="site.toml: no TOML.")
    findings = list(examine(damaged, machine()))
    assert [finding.check for finding in findings] == ["settings", *CHECKS[6:14]]
    assert findings[0].state == "fail"
    assert {finding.state for finding in findings[1:]} == {"ok"}


def test_a_roster_of_somebody_else_is_a_reason_to_call(home):
    home.write_roster(key=Ed25519PrivateKey.generate())
    finding = check_roster(home.examined, "north")
    assert finding.state == "fail"
    assert "not signed by the consortium" in finding.sentence
    assert finding.remedy.startswith("Call")


@pytest.mark.parametrize("file", ["roster", "consortium"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_roster_that_is_missing_or_cut_off_is_told(home, file, damage):
    path = getattr(home.examined, file)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-30])
    finding = check_roster(home.examined, "north")
    assert finding.state == "fail"
    assert "wardround-site join" in finding.remedy
