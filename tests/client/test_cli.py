"""`wardround-site` as a hospital types it."""

import json
import re
from datetime import UTC, datetime

import pytest
import typer
from consortia import Consortium
from hospitals import STUDY, write_hospital
from ledgers import COST, ledger_of_three, reserve
from typer.testing import CliRunner

from wardround_client.approvals import Approvals
from wardround_client.cli import app
from wardround_client.ledger import Ledger
from wardround_client.ledger.anchor import Files
from wardround_shared.audit_log import verify
from wardround_shared.privacy.accounting import epsilon_spent
from wardround_shared.study import load_study, study_text


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


# --- a site that has joined ------------------------------------------------------------------


class Site:
    """The site `north` of a consortium, with a data set and a study that was offered to it."""

    def __init__(self, folder, study_file):
        self.centre = Consortium(folder, address="localhost:1")
        self.centre.now = datetime.now(UTC)
        self.home = self.centre.site("north")
        self.centre.join(self.home)
        self.folder = folder
        (folder / "clinic").mkdir()
        write_hospital(folder / "clinic" / "north.csv", seed=1)
        study = load_study(study_file, ("aggregation.secure=true", "aggregation.minimum-sites=3"))
        self.study = Approvals(self.home.studies).keep(study_text(study))
        self.id = self.study.study_id

    def ask(self, *arguments, typed=None):
        given = [str(one) for one in (*arguments, "--home", self.home.folder)]
        return CliRunner().invoke(app, given, input=typed, catch_exceptions=False)

    def says(self, *arguments, typed=None):
        result = self.ask(*arguments, typed=typed)
        assert result.exit_code == 0, result.output
        return result.stdout

    def refuses(self, *arguments):
        result = self.ask(*arguments)
        assert result.exit_code == 1, result.output
        assert result.stderr.startswith("error: ")
        assert len(result.stderr.splitlines()) == 1
        return result.stderr

    def events(self):
        log = self.home.audit_log
        if not log.exists():
            return []
        assert not verify(log)
        return [json.loads(line)["event"] for line in log.read_text().splitlines()]


@pytest.fixture
def site(tmp_path, study_file):
    made = Site(tmp_path, study_file)
    made.says("data", "add", "clinic", tmp_path / "clinic", "--source", "table")
    return made


def test_a_study_is_shown_decided_and_decided_again(site):
    assert site.says("study", "list") == f"{site.id[:12]}  small  to be decided\n"
    shown = site.says("study", "show", site.id[:6], "--data", "clinic")
    assert "epsilon" in shown
    assert "The study by itself costs epsilon" in shown
    assert site.says("study", "approve", site.id[:6], "--data", "clinic", typed="y\n")
    assert site.says("study", "list") == f"{site.id[:12]}  small  approved  clinic\n"
    assert Approvals(site.home.studies).require_approved(site.id)[1] == "clinic"
    assert "refused" in site.says("study", "refuse", site.id)
    (content,) = json.loads(site.says("study", "list", "--json"))
    assert (content["id"], content["decision"], content["data_set"]) == (site.id, "refused", None)
    assert site.events() == ["data-set", "approved", "refused-study"]


@pytest.mark.parametrize("typed", ["n\n", "\n", ""])
def test_without_a_yes_nothing_is_approved(site, typed):
    result = site.ask("study", "approve", site.id, "--data", "clinic", typed=typed)
    assert result.exit_code == 1
    assert Approvals(site.home.studies).find(site.id).decision is None
    assert "approved" not in site.events()


def test_a_study_gets_no_data_set_that_is_not_there(site):
    assert "no data set 'ward'" in site.refuses(
        "study", "approve", site.id, "--data", "ward", "--yes"
    )
    assert Approvals(site.home.studies).find(site.id).decision is None


def test_a_study_that_was_changed_after_it_was_approved_is_said(site):
    site.says("study", "approve", site.id, "--data", "clinic", "--yes")
    file = site.home.studies / site.id / "study.toml"
    file.write_text(file.read_text().replace("rounds = 3", "rounds = 300"))
    assert "is not what was offered" in site.refuses("study", "list")
    assert "is not what was offered" in site.refuses("study", "show", site.id)


def test_a_data_set_is_checked_against_a_file_or_an_offer(site, study_file):
    by_file = json.loads(site.says("data", "check", "clinic", "--study", study_file, "--json"))
    by_id = json.loads(site.says("data", "check", "clinic", "--study", site.id, "--json"))
    assert by_file["readable"] == by_id["readable"] == 60


def test_what_a_check_leaves_out_is_said_without_a_patient(site, study_file):
    table = site.folder / "clinic" / "north.csv"
    table.write_text(table.read_text().replace("north-3,", ",", 1))
    said = site.says("data", "check", "clinic", "--study", study_file)
    assert "left out: 1" in said
    assert "north-3" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("data", "add", "clinic", ".", "--source", "table"), "a data set clinic already"),
        (("data", "add", "../x", ".", "--source", "table"), "A data set's name"),
        (("data", "add", "new", "nowhere", "--source", "table"), "no such folder"),
        (("data", "add", "new", ".", "--source", "excel"), "excel"),
        (("data", "check", "ward", "--study", "0000"), "0000"),
        (("data", "check", "clinic", "--study", "none.toml"), "none.toml"),
        (("study", "show", "ffff"), "No studies"),
        (("study", "show", "../.."), "no id of a study"),
        (("study", "refuse", "x"), "no id of a study"),
        (("join", "--answer", "none.wardround-answer", "--fingerprint", "0"), "none.wardround"),
        (("join", "--request", "x.wardround-request"), "has joined a consortium"),
        (("keys", "rotate", "nowhere/x.wardround-request"), "nowhere"),
        (("audit", "verify", "--head", "x"), "no head"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_one_sentence(site, arguments, said):
    assert said in site.refuses(*arguments)


def test_the_doctor_says_what_is_wrong_and_what_to_do(site):
    result = site.ask("doctor")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    (failed,) = [number for number, line in enumerate(lines) if line.startswith("fail")]
    assert "connection: Nobody answers at localhost, port 1" in lines[failed]
    assert lines[failed + 1].startswith("      ")
    found = json.loads(site.ask("doctor", "--json").stdout)
    assert [one["check"] for one in found if one["state"] == "fail"] == ["connection"]


def test_new_keys_are_asked_for_and_forgotten(site):
    said = site.says("keys", "rotate", site.folder / "n.wardround-request")
    assert re.search(r"^    ([0-9a-f]{4} ?){10}$", said, re.MULTILINE)
    assert "forgotten" in site.says("keys", "abandon")
    assert "keys" in site.events()


def test_nothing_is_made_where_no_home_is(tmp_path):
    for command in (
        ["doctor"],
        ["data", "list"],
        ["study", "list"],
        ["start"],
        ["keys", "abandon"],
    ):
        result = ask(*command, "--home", tmp_path / "none")
        assert result.exit_code == 1
        assert "there is no site home here" in result.stderr
    assert list(tmp_path.iterdir()) == []


# --- help ------------------------------------------------------------------------------------


def leaves(group, *names):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, *names, name)
        else:
            yield (*names, name), command


COMMANDS = dict(leaves(typer.main.get_command(app)))


@pytest.mark.parametrize("command", sorted(COMMANDS), ids=" ".join)
def test_help_has_an_example_that_can_be_typed(command):
    result = ask(*command, "--help", COLUMNS="200", TERM="dumb")
    example = re.search(r"Example: wardround-site (.+)", result.stdout)
    assert example, result.stdout
    words = example[1].replace(",", " ").split()
    assert tuple(words[: len(command)]) == command
    known = {option for param in COMMANDS[command].params for option in param.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_every_command_is_known_to_this_test():
    assert len(COMMANDS) >= 16
    assert ("study", "approve") in COMMANDS


# --- a home that is out of order -----------------------------------------------------------------


def findings(home, *more):
    """Check -> finding of `doctor --json`, which fails, and says nothing elsewhere."""
    result = ask("doctor", "--json", "--home", home.folder, *more)
    assert result.exit_code == 1
    assert result.stderr == ""
    return {one["check"]: one for one in json.loads(result.stdout)}


@pytest.fixture
def joined(tmp_path):
    centre = Consortium(tmp_path)
    home = centre.site("north")
    centre.join(home)
    return home


@pytest.mark.parametrize("fault", ["mode", "gone"])
def test_the_doctor_is_there_where_a_key_is_not_in_order(joined, fault):
    if fault == "mode":
        joined.keys.node.chmod(0o644)
    else:
        joined.keys.identity.unlink()
    found = findings(joined)
    assert found["keys"]["state"] == found["permissions"]["state"] == "fail"
    assert found["keys"]["remedy"]
    assert found["policy"]["state"] == found["ledger"]["state"] == "ok"
    assert "roster" in found
    shown = ask("doctor", "--home", joined.folder)
    assert shown.exit_code == 1
    assert "fail  keys: " in shown.stdout


@pytest.mark.parametrize("text", ['name = "two names"', "name = ", 'name = "north"\nserver = "x"'])
def test_the_doctor_is_there_where_the_settings_are_not_in_order(joined, text):
    joined.settings_file.write_text(text)
    found = findings(joined)
    assert found["settings"]["state"] == "fail"
    assert "site.toml" in found["settings"]["sentence"]
    assert found["keys"]["state"] == found["ledger"]["state"] == "ok"
    assert not {"server", "roster"} & set(found)


def test_the_doctor_of_no_home_says_so_in_one_sentence(tmp_path):
    result = ask("doctor", "--json", "--home", tmp_path)
    assert result.exit_code == 1
    assert "there is no site home here" in result.stderr


def test_a_site_that_has_not_joined_is_told_how_to_and_not_where_it_connects(tmp_path):
    home = Consortium(tmp_path).site("north")
    result = ask("start", "--home", home.folder)
    assert result.exit_code == 1
    assert "None" not in result.output
    assert result.stderr.startswith("error: ")
    assert "wardround-site join --request" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--request", "a", "--answer", "b"]])
def test_joining_with_no_file_or_two_is_one_sentence(joined, arguments):
    result = ask("join", "--home", joined.folder, *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: Give --request FILE")
    assert len(result.stderr.splitlines()) == 1


# --- files that cannot be written or read --------------------------------------------------------


def everything_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_error(result):
    """The sentence of a command that failed as foreseen."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "a traceback"
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "Errno" not in line
    return line


@pytest.mark.parametrize("place", [".", "/", "", "folder", "nowhere/file"])
@pytest.mark.parametrize("command", ["rotate", "request"])
def test_a_request_that_cannot_be_written_changes_nothing(tmp_path, monkeypatch, place, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    centre = Consortium(tmp_path)
    home = centre.site("north")
    words = ("join", "--request", place)
    if command == "rotate":
        centre.join(home)
        words = ("keys", "rotate", place)
    before = everything_in(tmp_path)
    said = one_error(ask(*words, "--home", home.folder))
    assert ("no such folder" if place == "nowhere/file" else "this is a folder") in said
    assert {k: v for k, v in everything_in(tmp_path).items() if k.name != "home.lock"} == {
        k: v for k, v in before.items() if k.name != "home.lock"
    }


@pytest.mark.parametrize("kind", ["gone", "folder", "bytes"])
@pytest.mark.parametrize("which", ["answer", "study", "policy", "data"])
def test_a_file_that_cannot_be_read_is_told_with_what_to_do(joined, tmp_path, which, kind):
    file = {
        "answer": tmp_path / "x.wardround-answer",
        "study": tmp_path / "x.toml",
        "policy": joined.policy,
        "data": joined.data_sets,
    }[which]
    file.unlink(missing_ok=True)
    if kind == "folder":
        file.mkdir()
    elif kind == "bytes":
        file.write_bytes(b"\xff\xfe")
    elif which == "data":
        return  # there is none yet
    words = {
        "answer": ("join", "--answer", file, "--fingerprint", "0" * 40),
        "study": ("data", "check", "clinic", "--study", file),
        "policy": ("start",),
        "data": ("data", "list"),
    }[which]
    said = one_error(ask(*words, "--home", joined.folder))
    assert str(file) in said
    assert said.endswith(").") or ";" in said


# --- a log in which nothing can be written -------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["add", "approve", "refuse", "rotate", "abandon", "request", "answer"]
)
def test_what_cannot_be_logged_is_not_done(tmp_path, command):
    centre = Consortium(tmp_path)
    home = centre.site("north")
    (tmp_path / "data").mkdir()
    request = tmp_path / "r"
    answer = centre.admit(centre.request(home))
    added = ("data", "add", "heart", tmp_path / "data", "--source", "table")
    assert ask(*added, "--home", home.folder).exit_code == 0
    study_id = Approvals(home.studies).keep(STUDY).study_id
    ask("keys", "rotate", tmp_path / "first", "--home", home.folder)
    home.audit_log.write_text(home.audit_log.read_text()[:-5] + "}\n")
    before = everything_in(tmp_path)
    words = {
        "add": ("data", "add", "other", tmp_path / "data", "--source", "table"),
        "approve": ("study", "approve", study_id, "--data", "heart", "--yes"),
        "refuse": ("study", "refuse", study_id),
        "rotate": ("keys", "rotate", request),
        "abandon": ("keys", "abandon"),
        "request": ("join", "--request", request),
        "answer": ("join", "--answer", answer.answer, "--fingerprint", answer.fingerprint),
    }[command]
    said = one_error(ask(*words, "--home", home.folder))
    assert "keep the file as it is" in said
    assert everything_in(tmp_path) == before


def test_abandoning_keys_says_whether_there_were_any_and_logs_it(joined, tmp_path):
    before = joined.audit_log.exists()
    assert "nothing was forgotten" in ask("keys", "abandon", "--home", joined.folder).stdout
    assert joined.audit_log.exists() == before
    ask("keys", "rotate", tmp_path / "r", "--home", joined.folder)
    assert "are forgotten" in ask("keys", "abandon", "--home", joined.folder).stdout
    lines = [json.loads(line) for line in joined.audit_log.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["keys", "keys"]
    assert "forgotten" in lines[-1]["reason"]
    assert verify(joined.audit_log) == ()
