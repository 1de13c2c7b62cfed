"""What README.md tells people to type exists."""

import re
import shlex
from pathlib import Path

import click
import pytest
from typer.main import get_command

from wardround_client import cli as site_cli
from wardround_server import cli as server_cli
from wardround_shared.errors import StudyError
from wardround_simulations.cli import app
from wardround_simulations.options import find_study

ROOT = Path(__file__).parents[2]
APPS = {
    ".venv/bin/wardround": app,
    ".venv/bin/wardround-server": server_cli.app,
    ".venv/bin/wardround-site": site_cli.app,
}
COMMANDS = (*APPS, "make")


def commands(text):
    """Command lines in the code blocks of a Markdown text, with continued lines joined."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    lines = [line.strip().removesuffix("&").strip() for line in lines]
    return [line for line in lines if line.split(" ")[0] in COMMANDS]


def check(line):
    """Raise `click.UsageError`, `KeyError` or `StudyError` if `line` cannot be carried out."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = dict.fromkeys(re.findall(r"^([\w-]+):(?!=)", makefile, flags=re.MULTILINE))
        for target in arguments:
            targets[target]
        return
    command, context = get_command(APPS[program]), None
    name = Path(program).name
    while isinstance(command, click.Group):
        context = command.make_context(name, arguments, parent=context)
        name, command, arguments = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
    context = command.make_context(name, arguments, parent=context)
    if program == ".venv/bin/wardround" and context.params.get("study"):
        find_study(context.params["study"])


README = commands((ROOT / "README.md").read_text(encoding="utf-8"))


def test_all_kinds_of_commands_are_found():
    assert {line.split(" ")[0] for line in README} == set(COMMANDS)


@pytest.mark.parametrize("line", README)
def test_a_command_in_the_readme_can_be_typed(line, monkeypatch):
    monkeypatch.setenv("WARDROUND_SERVER_HOME", "trial/server")  # exported in the same blocks
    check(line)


@pytest.mark.parametrize(
    "line",
    [
        "make deploy",
        ".venv/bin/wardround simulat",
        ".venv/bin/wardround bench sites",
        ".venv/bin/wardround simulate --round 3",
        ".venv/bin/wardround simulate --rounds three",
        ".venv/bin/wardround simulate hart-disease",
        ".venv/bin/wardround evaluate",
        ".venv/bin/wardround report one two",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line):
    with pytest.raises((click.UsageError, KeyError, StudyError)):
        check(line)


def test_continued_lines_and_comments_are_understood():
    text = "```sh\n.venv/bin/wardround simulate \\\n  --rounds 3  # short\n```\nmake nothing\n"
    (line,) = commands(text)
    check(line)
