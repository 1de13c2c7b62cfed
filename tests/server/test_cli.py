"""`wardround-server` as a coordinating centre types it."""

import json
import re

import pytest
import typer
from consortia import Consortium, everything
from typer.testing import CliRunner

from wardround_server.cli import app
from wardround_server.daemon.runs import Runs
from wardround_server.enrolment.rosters import current_roster
from wardround_shared.audit_log import verify


@pytest.fixture
def centre(tmp_path):
    made = Consortium(tmp_path)
    made.join(made.site("north"))
    return made


def ask(*arguments, typed=None, **environment):
    given = [str(one) for one in arguments]
    return CliRunner().invoke(app, given, input=typed, env=environment, catch_exceptions=False)


def events(centre):
    log = centre.home.audit_log
    if not log.exists():
        return []
    assert not verify(log)
    return [json.loads(line)["event"] for line in log.read_text().splitlines()]


def leaves(group, *names):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, *names, name)
        else:
            yield (*names, name)


COMMANDS = sorted(leaves(typer.main.get_command(app)))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_says_what_a_command_does_and_has_an_example_that_can_be_typed(command):
    result = ask(*command, "--help", COLUMNS="200", TERM="dumb")
    assert result.exit_code == 0
    example = re.search(r"Example: wardround-server (.+)", result.stdout)
    assert example, result.stdout
    words = example[1].split("│")[0].split()
    assert tuple(words[: len(command)]) == command
    known = {option for param in _command(command).params for option in param.opts}
    assert {word for word in words if word.startswith("--")} <= known


def _command(names):
    command = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    return command


def test_every_command_is_known_to_this_test():
    assert len(COMMANDS) >= 13
    assert ("certificates", "rotate") in COMMANDS


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_home_the_way_to_name_it_is_said(command):
    arguments = {"admit": ["x"], "revoke": ["x"], "submit": ["x"], "stop": ["x"], "resume": ["x"]}
    arguments |= {"export": ["x", "--out", "y"], "init": ["--address", "localhost:1"]}
    result = ask(*command, *arguments.get(command[0], []), WARDROUND_SERVER_HOME=None)
    assert result.exit_code == 2
    assert "WARDROUND_SERVER_HOME" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("admit", "north.wardround-request"),
        ("revoke", "north"),
        ("start",),
        ("submit", "small.toml"),
        ("stop", "trial"),
        ("resume", "trial"),
        ("status",),
        ("status", "--json"),
        ("status", "--watch"),
        ("export", "trial", "--out", "out"),
        ("certificates", "show"),
        ("certificates", "renew"),
        ("certificates", "rotate"),
        ("certificates", "finish"),
        ("audit", "verify", "--head", "1:zz"),
    ],
    ids=" ".join,
)
def test_a_home_that_is_not_there_is_one_sentence_and_nothing_is_made(tmp_path, arguments):
    result = ask(*arguments, "--home", tmp_path / "none")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_home_may_be_named_by_the_environment(centre):
    result = ask("status", "--json", WARDROUND_SERVER_HOME=str(centre.home.folder))
    assert json.loads(result.stdout)["roster_version"] == 2


@pytest.mark.parametrize("typed", ["n\n", "\n", ""])
def test_without_a_yes_nobody_is_let_in_or_put_out(centre, typed):
    file = centre.request(centre.site("south"))
    before = centre.roster()
    for command in (("admit", file), ("revoke", "north")):
        result = ask(*command, "--home", centre.home.folder, typed=typed)
        assert result.exit_code == 1
    assert centre.roster() == before
    assert events(centre) == []
    assert not file.with_suffix(".wardround-answer").exists()


def test_a_site_is_let_in_and_put_out_with_a_line_in_the_log(centre):
    file = centre.request(centre.site("south"))
    result = ask("admit", file, "--home", centre.home.folder, typed="y\n")
    assert result.exit_code == 0
    assert file.with_suffix(".wardround-answer").exists()
    assert ask("revoke", "south", "--home", centre.home.folder, typed="y\n").exit_code == 0
    assert events(centre) == ["admitted", "revoked"]


def test_whoever_is_let_in_again_is_not_noted_again(centre):
    request = centre.folder / "north.wardround-request"
    before = events(centre)
    assert ask("admit", request, "--home", centre.home.folder, "--yes").exit_code == 0
    assert events(centre) == before


@pytest.mark.parametrize(
    ("answer", "fault"), [(".", "this is a folder"), ("missing/north.answer", "no such folder")]
)
def test_an_answer_that_cannot_be_written_lets_nobody_in(centre, answer, fault):
    request = centre.request(centre.site("south"))
    version = current_roster(centre.home).version
    result = ask("admit", request, "--answer", answer, "--home", centre.home.folder, "--yes")
    assert result.exit_code == 1
    assert fault in result.stderr
    assert current_roster(centre.home).version == version


@pytest.mark.parametrize(
    "arguments",
    [
        ("revoke", "north", "--yes"),
        ("admit", "REQUEST", "--yes"),
        ("certificates", "renew"),
        ("certificates", "rotate"),
        ("certificates", "finish", "--at-once"),
        ("submit", "STUDY"),
        ("stop", "trial"),
        ("resume", "trial"),
    ],
    ids=" ".join,
)
def test_without_a_sound_log_nothing_is_changed(centre, study_file, arguments):
    places = {"STUDY": study_file, "REQUEST": centre.request(centre.site("south"))}
    ask("submit", study_file, "--name", "trial", "--home", centre.home.folder)
    if "finish" in arguments:
        ask("certificates", "rotate", "--home", centre.home.folder)
    if "resume" in arguments:
        ask("stop", "trial", "--home", centre.home.folder)
    with centre.home.audit_log.open("ab") as file:
        file.write(b'{"half": ')
        file.write(b"1}\n")
    before = everything(centre.home.folder)
    given = [places.get(one, one) for one in arguments]
    result = ask(*given, "--home", centre.home.folder)
    assert result.exit_code == 1
    assert "audit" in result.stderr
    assert everything(centre.home.folder) == before


def test_the_key_may_be_kept_elsewhere(centre, tmp_path):
    key = tmp_path / "safe.pem"
    centre.home.consortium_private.rename(key)
    home = ("--home", centre.home.folder)
    result = ask("revoke", "north", *home, "--yes")
    assert result.exit_code == 1
    assert "--consortium-key" in result.stderr
    assert ask("revoke", "north", *home, "--yes", "--consortium-key", key).exit_code == 0


def test_what_is_wrong_with_settings_is_named(centre):
    text = centre.home.settings_file.read_text()
    centre.home.settings_file.write_text(text.replace("port = 9092", 'port = "many"', 1))
    result = ask("start", "--home", centre.home.folder)
    assert result.exit_code == 1
    assert "server.toml: listen.port" in result.stderr


def submit(centre, study_file, *arguments):
    return ask("submit", study_file, "--home", centre.home.folder, *arguments)


def test_a_run_is_asked_for_stopped_and_resumed(centre, study_file):
    result = submit(centre, study_file, "--name", "trial", "--seed", 7, "--json")
    record = json.loads(result.stdout)
    assert (record["name"], record["state"], record["seed"]) == ("trial", "submitted", 7)
    home = ("--home", centre.home.folder)
    runs = Runs(centre.home.runs)
    assert ask("stop", "trial", *home).exit_code == 0
    assert runs.read("trial").state == "stopped"
    assert ask("resume", "trial", *home).exit_code == 0
    assert runs.read("trial").state == "submitted"
    assert events(centre) == ["submitted", "stopped", "resumed"]


@pytest.mark.parametrize(("state", "command"), [("finished", "stop"), ("finished", "resume")])
def test_what_a_run_cannot_do_is_said(centre, study_file, state, command):
    submit(centre, study_file, "--name", "trial")
    Runs(centre.home.runs).change("trial", state, only={"submitted"})
    result = ask(command, "trial", "--home", centre.home.folder)
    assert result.exit_code == 1
    assert f"The run trial is {state}" in result.stderr
    assert events(centre) == ["submitted"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--site", "north", "--site", "nobody"], "nobody is not in the roster of version 2"),
        (["--set", "training.roundz=3"], "there is no such key"),
        (["--set", "training.rounds=-1"], "training.rounds"),
        (["--set", "nonsense"], "nonsense"),
        (["--name", "A"], "cannot be the name of a run"),
        (["--name", "../../x"], "cannot be the name of a run"),
        (["--name", ""], "cannot be the name of a run"),
    ],
)
def test_what_is_wrong_with_a_run_is_said_and_none_is_made(centre, study_file, arguments, said):
    result = submit(centre, study_file, *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert Runs(centre.home.runs).all() == []


@pytest.mark.parametrize("arguments", [["--seed", "x"], ["--none"], ["more"]])
def test_wrong_usage_has_an_exit_code_of_its_own(centre, study_file, arguments):
    assert submit(centre, study_file, *arguments).exit_code == 2


def test_names_of_runs_lead_nowhere(centre, study_file, tmp_path):
    submit(centre, study_file, "--name", "trial")
    outside = tmp_path / "trial"
    (centre.home.runs / "trial").rename(outside)
    before = (outside / "run.json").read_bytes()
    for name in ("../../trial", outside):
        result = ask("stop", name, "--home", centre.home.folder)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: There is no run ")
    assert (outside / "run.json").read_bytes() == before


def test_a_log_that_was_changed_is_found(centre, study_file):
    submit(centre, study_file)
    log = centre.home.audit_log
    log.write_text(log.read_text().replace("submitted", "resumed"))
    result = ask("audit", "verify", "--home", centre.home.folder)
    assert result.exit_code == 1
    assert result.stdout.strip()
    result = ask("audit", "verify", "--home", centre.home.folder, "--json")
    assert (result.exit_code, json.loads(result.stdout)["sound"]) == (1, False)


def test_a_watch_ends_with_ctrl_c(centre, monkeypatch):
    def interrupted(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("wardround_server.daemon.overview.time.sleep", interrupted)
    result = ask("status", "--watch", "--home", centre.home.folder)
    assert result.exit_code == 130
    assert "the daemon is not running" in result.stdout
