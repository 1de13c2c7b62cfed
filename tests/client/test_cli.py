"""`wardround-site` as a hospital types it."""

import json

import pytest
from ledgers import COST, ledger_of_three, reserve
from typer.testing import CliRunner

from wardround_client.cli import app
from wardround_client.ledger import Ledger
from wardround_client.ledger.anchor import Files
from wardround_shared.privacy.accounting import epsilon_spent


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "north"
    ledger = ledger_of_three(home)
    reserve(ledger, 1, study="other", study_id="cd" * 32, run="other-1", data_set="echo")
    reserve(ledger, 1, run="lungs-1", data_set="lungs", population="pneumology")
    return home


def ask(*arguments, **environment):
    return CliRunner().invoke(app, list(map(str, arguments)), env=environment)


def test_show_gives_spent_and_left_of_each_population_and_study(home):
    (home / "policy.toml").write_text('[data-sets.heart]\npopulation = "cardiology"\nepsilon = 2')
    result = ask("ledger", "show", "--home", home, "--json")
    assert result.exit_code == 0
    content = json.loads(result.stdout)
    spent = epsilon_spent([COST] * 4, 1e-5)
    heart, lungs = content["populations"]
    assert (heart["population"], heart["data_sets"]) == ("cardiology", ["heart", "echo"])
    assert heart["spent"] == {"epsilon": spent.epsilon, "prv": spent.prv, "rdp": spent.rdp}
    assert (heart["cap"], heart["delta"]) == (2.0, 1e-5)
    assert heart["left"] == pytest.approx(2.0 - spent.epsilon)
    assert [(s["study"], s["rounds"]) for s in heart["studies"]] == [("trial", 3), ("other", 1)]
    assert heart["studies"][1]["spent"]["rdp"] == epsilon_spent([COST], 1e-5).rdp
    assert (lungs["population"], lungs["cap"]) == ("pneumology", 8.0)
    assert [row["state"] for row in content["reservations"][:3]] == ["committed"] * 2 + ["reserved"]
    ledger = Ledger.open(home, site="north")
    assert (content["head"], content["ledger_id"]) == (ledger.head.hex(), ledger.ledger_id)


def test_show_for_a_person_has_every_figure_whole(home):
    (home / "policy.toml").write_text("[privacy]\nepsilon = 2")
    result = ask("ledger", "show", WARDROUND_SITE_HOME=str(home))
    assert result.exit_code == 0
    spent = epsilon_spent([COST] * 4, 1e-5)
    for word in (
        "site north",
        "cardiology",
        "pneumology",
        "heart, echo",
        f"{spent.prv:.3f}",
        f"{spent.rdp:.3f}",
        f"{2 - spent.epsilon:.3f}",
        "reserved",
        "lungs-1",
    ):
        assert word in result.stdout
    assert "…" not in result.stdout


def test_without_a_policy_no_cap_is_made_up(home):
    content = json.loads(ask("ledger", "show", "--home", home, "--json").stdout)
    assert all(one["cap"] is one["left"] is None for one in content["populations"])
    assert "no policy.toml here" in ask("ledger", "show", "--home", home).stdout


def test_names_with_brackets_are_shown_as_they_are(tmp_path):
    ledger = Ledger.create(tmp_path, site="[north]", durable=False)
    reserve(ledger, 1, run="[red]run[/red]")
    shown = ask("ledger", "show", "--home", tmp_path).stdout
    assert "[red]run[/red]" in shown
    assert "site [north]" in shown


def test_an_empty_ledger_is_shown(tmp_path):
    Ledger.create(tmp_path, site="north", durable=False)
    result = ask("ledger", "show", "--home", tmp_path)
    assert result.exit_code == 0
    assert "Nothing was ever reserved" in result.stdout


def test_verify_says_that_a_ledger_is_sound(home):
    assert ask("ledger", "verify", "--home", home).stdout == "The ledger is sound.\n"
    result = ask("ledger", "verify", "--home", home, "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"sound": True, "faults": []})


def test_verify_gives_a_sentence_for_each_fault_and_fails(home):
    Files(home=home).key.unlink()
    Files(home=home).anchor.unlink()
    result = ask("ledger", "verify", "--home", home)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert all("is missing" in line for line in result.stdout.splitlines())
    result = ask("ledger", "verify", "--home", home, "--json")
    content = json.loads(result.stdout)
    assert (result.exit_code, content["sound"], len(content["faults"])) == (1, False, 2)


@pytest.mark.parametrize("part", ["database", "key", "anchor"])
def test_a_ledger_that_is_not_sound_is_not_shown(home, part):
    getattr(Files(home=home), part).write_bytes(b"")
    result = ask("ledger", "show", "--home", home)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_faulty_policy_is_named(home):
    (home / "policy.toml").write_text("[privacy]\nepsilon = 0")
    result = ask("ledger", "show", "--home", home)
    assert result.exit_code == 1
    assert "policy.toml: privacy.epsilon" in result.stderr


@pytest.mark.parametrize("command", ["show", "verify"])
def test_without_a_home_the_way_to_name_it_is_said(command):
    result = ask("ledger", command, WARDROUND_SITE_HOME=None)
    assert result.exit_code == 2
    assert "--home" in result.stderr
    assert "WARDROUND_SITE_HOME" in result.stderr


@pytest.mark.parametrize("command", [["ledger", "show"], ["ledger", "verify"]])
def test_help_has_an_example(command):
    assert "Example: wardround-site ledger" in ask(*command, "--help").stdout
