"""The audit holds with the mechanism as it is, and says "broken" of each way to break it.

Coins and noise are injected, so that each case is the same every time; docs/audit.md has the rates
over many draws.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from federations import Silent, settings_of
from hospitals import HOSPITALS, STUDY, write_hospital
from typer.testing import CliRunner

from wardround_client import account
from wardround_server.run_folder import SUMMARY
from wardround_shared.errors import DataError, RunError, RunFolderError, StudyError
from wardround_shared.privacy.accounting import Spent
from wardround_shared.privacy.dp_sgd import DpSgd
from wardround_shared.privacy.noise import InjectedNoise
from wardround_shared.study import load_study
from wardround_simulations import cli
from wardround_simulations.auditing import AuditSettings, audit_run
from wardround_simulations.federation import simulate

ROUNDS = 40
CANARIES = 2000


class Desk:
    """Hospitals, finished runs of their study, and audits of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir()
        for seed, name in enumerate(HOSPITALS):
            write_hospital(self.data / f"{name}.csv", seed=seed, rows=40 if seed else 60)
        self._study = folder / "small.toml"
        self._study.write_text(STUDY, encoding="utf-8")

    def run(self, name: str, *overrides: str, **keys) -> Path:
        """A finished run of the study."""
        path = self.folder / name
        simulate(settings_of(self._study, self.data, path, *overrides, **keys), Silent())
        return path

    def audit(self, run: Path, seed: int = 1, **keys) -> dict:
        values = {"canaries": CANARIES, "data": self.data, "cache": self.folder / "cache"}
        return audit_run(AuditSettings(run=run, **(values | keys)), noise=InjectedNoise(seed))


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def run(desk) -> Path:
    """A run with the patient as the unit."""
    return desk.run("run", f"training.rounds={ROUNDS}")


@pytest.fixture(scope="module")
def record_run(desk) -> Path:
    """A run with the record as the unit."""
    return desk.run("records", f"training.rounds={ROUNDS}", "privacy.unit=record")


# --- the sound mechanism --------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_mechanism_as_it_is_holds(desk, run, seed):
    result = desk.audit(run, seed)
    assert result["verdict"] == "holds"
    assert result["epsilon_lower_bound"] < 1.2
    assert 1.9 < result["epsilon_claimed"] <= 2.0


def test_the_canaries_leave_the_trace_that_theory_expects(desk, run):
    """Else the audit would hold because it sees nothing.

    A canary adds sample rate * steps clipping bounds to noise of deviation
    multiplier * sqrt(steps) of them.
    """
    result = desk.audit(run)
    steps = result["rounds"] * result["steps_per_round"]
    distance = result["sample_rate"] * np.sqrt(steps) / result["noise_multiplier"]
    expected = 0.5 * (1 + torch.erf(torch.tensor(distance / 2))).item()
    assert result["auroc"]["low"] < expected < result["auroc"]["high"]
    assert expected > 0.6


def test_the_record_as_unit_holds_with_canaries_of_one_record(desk, record_run):
    result = desk.audit(record_run)
    assert (result["verdict"], result["unit"]) == ("holds", "record")
    assert result["examples_per_canary"] == 1
    assert result["auroc"]["low"] > 0.55


# --- ways to break it -----------------------------------------------------------------------


def without_noise(monkeypatch):
    def silence(self, shape, std, *, device, dtype):
        return torch.zeros(shape, device=device, dtype=dtype)

    monkeypatch.setattr(InjectedNoise, "normal", silence)


def with_a_fifth_of_the_noise(monkeypatch):
    normal = InjectedNoise.normal

    def quieter(self, shape, std, **keys):
        return normal(self, shape, std / 5, **keys)

    monkeypatch.setattr(InjectedNoise, "normal", quieter)


def clipping_each_batch(monkeypatch):
    """The mean gradient of a batch is clipped, and a hundredth of the noise is added to it.

    That would be right for the sum of a hundred patients, each of whom is clipped.
    """
    step, normal = DpSgd.step, InjectedNoise.normal

    def as_one_patient(self, inputs, labels, loss, patients=None):
        step(self, inputs, labels, loss, torch.zeros(len(labels), dtype=torch.int64))

    def of_a_mean(self, shape, std, **keys):
        return normal(self, shape, std / 100, **keys)

    monkeypatch.setattr(DpSgd, "step", as_one_patient)
    monkeypatch.setattr(InjectedNoise, "normal", of_a_mean)


def clipping_each_example(monkeypatch):
    step = DpSgd.step

    def as_records(self, inputs, labels, loss, patients=None):
        step(self, inputs, labels, loss)

    monkeypatch.setattr(DpSgd, "step", as_records)


def forgetting_rounds(monkeypatch):
    """The noise is solved for the steps of one round, and added in all of them."""
    solve = account.noise_multiplier_for

    def of_one_round(*, steps, **keys):
        return solve(steps=steps // ROUNDS, **keys)

    monkeypatch.setattr(account, "noise_multiplier_for", of_one_round)


FAULTS = (
    without_noise,
    with_a_fifth_of_the_noise,
    clipping_each_batch,
    clipping_each_example,
    forgetting_rounds,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_broken_mechanism_is_found_out(desk, run, fault, monkeypatch):
    fault(monkeypatch)
    result = desk.audit(run)
    assert result["verdict"] == "broken"
    assert result["epsilon_lower_bound"] > result["epsilon_claimed"]


@pytest.mark.parametrize("fault", [without_noise, clipping_each_batch], ids=lambda f: f.__name__)
def test_it_is_found_out_with_the_record_as_unit_too(desk, record_run, fault, monkeypatch):
    fault(monkeypatch)
    assert desk.audit(record_run)["verdict"] == "broken"


def test_without_noise_every_canary_is_told(desk, run, monkeypatch):
    without_noise(monkeypatch)
    result = desk.audit(run)
    assert result["auroc"]["value"] == 1.0
    assert result["tpr_at_fpr"]["0.001"]["value"] == 1.0
    assert result["correct"] == result["guesses"]
    assert result["epsilon_lower_bound"] == result["largest_bound"]


def test_an_accountant_that_reports_too_little_is_held_to_its_word(desk, run, monkeypatch):
    def too_little(history, delta):
        return Spent(prv=0.05, rdp=0.05)

    monkeypatch.setattr("wardround_simulations.auditing.audit.epsilon_spent", too_little)
    result = desk.audit(run)
    assert (result["epsilon_claimed"], result["verdict"]) == (0.05, "broken")


# --- what is said, and what is refused ------------------------------------------------------


def test_the_result_has_what_a_program_reads(desk, run):
    result = desk.audit(run)
    assert set(result) >= {
        *("study", "site", "canaries", "included", "auroc", "tpr_at_fpr"),
        *("epsilon_lower_bound", "epsilon_claimed", "epsilon_of_run", "delta", "confidence"),
        *("verdict", "why", "notes", "seconds"),
    }
    assert set(result["auroc"]) == {"value", "low", "high"}
    assert set(result["tpr_at_fpr"]) == {"0.001", "0.01"}
    assert result == json.loads(json.dumps(result, allow_nan=False))
    assert result["site"] == "north"  # the largest
    assert 7.9 < result["epsilon_of_run"] <= 8.0
    assert abs(result["included"] - CANARIES / 2) < 5 * np.sqrt(CANARIES) / 2
    study = load_study(run / "study.toml")
    units = json.loads((run / SUMMARY).read_text())["cohorts"]["north"]["train"]
    assert result["sample_rate"] == pytest.approx(study.training.batch_size / units, rel=0.01)


def test_another_site_is_taken_by_name(desk, run):
    assert desk.audit(run, site="west")["site"] == "west"
    with pytest.raises(DataError, match="no such site"):
        desk.audit(run, site="east")


def test_patients_dealt_to_virtual_sites_are_dealt_again(desk):
    run = desk.run("virtual", "training.rounds=2", sites=4)
    assert desk.audit(run, canaries=200)["site"] in {f"site-{i}" for i in range(1, 5)}


def test_a_claim_that_so_few_canaries_cannot_refute_is_not_audited(desk, run):
    with pytest.raises(RunError, match="could not refute 8"):
        desk.audit(run, epsilon=8.0)
    with pytest.raises(RunError, match="could not refute 2"):
        desk.audit(run, canaries=20)


def test_an_unprotected_run_has_no_promise_to_audit(desk):
    plain = desk.run("plain", "privacy.mechanism=none")
    with pytest.raises(StudyError, match="no promise to audit"):
        desk.audit(plain)


def test_a_task_without_classes_is_refused(desk, tmp_path):
    text = STUDY.replace("tabular-classification", "tabular-survival")
    text = text.replace('classes = ["absent", "present"]\n', "")
    time = 'time = "pressure", event = "finding", occurred = ["present"], horizon = 200'
    text = text.replace('label = { column = "finding" }', f"survival = {{ {time} }}")
    text = text.replace('    { column = "pressure" },\n', "")
    (tmp_path / "time.toml").write_text(text, encoding="utf-8")
    run = tmp_path / "run"
    settings = settings_of(tmp_path / "time.toml", desk.data, run, "training.rounds=1")
    assert simulate(settings, Silent())["metrics"]["events"] > 0
    with pytest.raises(StudyError, match="an audit plants examples of one class, and tabular-surv"):
        desk.audit(run)


def test_other_data_than_the_runs_are_refused(desk, run, tmp_path):
    write_hospital(tmp_path / "elsewhere.csv", seed=9)
    with pytest.raises(DataError, match="other sites than the run had"):
        desk.audit(run, data=tmp_path)


@pytest.mark.parametrize("damage", [None, "{", "[]", "{}"])
def test_a_run_without_a_sound_summary_is_refused(desk, damage):
    run = desk.folder / "damaged"
    if not run.exists():
        desk.run("damaged", "training.rounds=1")
    summary = run / SUMMARY
    summary.unlink(missing_ok=True)
    if damage is not None:
        summary.write_text(damage, encoding="utf-8")
    with pytest.raises(RunFolderError, match="summary"):
        desk.audit(run)


def test_injected_noise_in_the_run_is_said(desk):
    run = desk.run("injected", "training.rounds=2", noise_seed=3)
    notes = desk.audit(run, canaries=200)["notes"]
    assert any("injected for a test" in note for note in notes)


# --- the command ----------------------------------------------------------------------------


def command(desk, run, *more):
    options = ["--data", str(desk.data), "--cache", str(desk.folder / "cache")]
    arguments = ["audit", str(run), *options, "--canaries", "300", *more]
    return CliRunner().invoke(cli.app, arguments, catch_exceptions=False)


def test_the_command_says_what_it_found(desk, run):
    done = command(desk, run)
    assert done.exit_code == 0
    assert f"round {ROUNDS} of {ROUNDS}" in done.stdout
    assert "verdict: holds:" in done.stdout


def test_json_has_standard_output_for_itself(desk, run):
    done = command(desk, run, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["canaries"] == 300
    assert "round 1 of" in done.stderr


def test_a_broken_mechanism_ends_the_command_with_1(desk, run, monkeypatch):
    clipping_each_example(monkeypatch)
    done = command(desk, run, "--epsilon", "1")
    assert done.exit_code == 1
    assert "verdict: broken:" in done.stdout


def test_a_refusal_is_one_sentence(desk, run):
    done = command(desk, run, "--epsilon", "nan")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.output
