"""Command-line transcripts: what a person types, and every line that comes back.

`[...]` in an expected line stands for any text, and `[=name]` for text that later commands have as
`[name]`. Lines before `$` that begin with `#` are comments.
Of a command with `--json`, standard output alone must be one JSON document.
"""

import json
import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from wardround_client import cli as site_cli
from wardround_server import cli as server_cli
from wardround_simulations import cli as researcher_cli

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
COMMANDS = {
    "wardround": researcher_cli.app,
    "wardround-server": server_cli.app,
    "wardround-site": site_cli.app,
}
_OPEN = re.compile(r"\[(?:\.\.\.|=(\w+))\]")


@dataclass
class Command:
    """One command of a transcript with the lines and exit code that it must give."""

    arguments: list[str]
    lines: list[str] = field(default_factory=list)
    exit_code: int = 0


def _read(file: Path) -> list[Command]:
    commands: list[Command] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("$ "):
            commands.append(Command(shlex.split(line[2:])))
        elif match := re.fullmatch(r"\[exit (\d+)\]", line):
            commands[-1].exit_code = int(match.group(1))
        elif line and not line.startswith("#"):
            commands[-1].lines.append(line)
    return commands


def _run(arguments: list[str]) -> tuple[int, list[str]]:
    if arguments == ["ls"]:
        return 0, sorted(path.name for path in Path().iterdir())
    result = CliRunner().invoke(COMMANDS[arguments[0]], arguments[1:], catch_exceptions=False)
    if "--json" in arguments:
        assert isinstance(json.loads(result.stdout), dict | list)
    return result.exit_code, result.output.splitlines()


def _pattern(expected: str) -> str:
    """A regular expression for an expected line."""
    pattern, place = "", 0
    for gap in _OPEN.finditer(expected):
        pattern += re.escape(expected[place : gap.start()])
        pattern += f"(?P<{gap.group(1)}>.*)" if gap.group(1) else ".*"
        place = gap.end()
    return pattern + re.escape(expected[place:])


@pytest.fixture
def desk(tmp_path, monkeypatch, study_file, hospitals, file):
    """A working folder with `small.toml` and `data`, and a cache of its own.

    For `deidentify.txt` also two images and a text in `images`, in folders named after patients.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WARDROUND_CACHE", "cache")
    Path("cache").mkdir()
    if file.stem == "deidentify":
        below = Path("images", "Quist^Ingeborg")
        below.mkdir(parents=True)
        for name in ("CT_small.dcm", "MR_small.dcm"):
            shutil.copy(get_testdata_file(name, download=False), below)
        (below / "letter.txt").write_text("Dear Ingeborg Quist")


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("file", sorted(TRANSCRIPTS.glob("*.txt")), ids=lambda f: f.stem)
def test_transcript(file):
    known: dict[str, str] = {}
    for command in _read(file):
        if "cuda" in command.arguments and torch.cuda.is_available():
            continue  # the refusal of a GPU that is there cannot be seen here
        given = [known.get(one.strip("[]"), one) for one in command.arguments]
        exit_code, lines = _run(given)
        said = "\n".join(lines)
        for line, expected in zip(lines, command.lines, strict=False):
            found = re.fullmatch(_pattern(expected), line)
            assert found, f"{command.arguments}\n{said}"
            known |= found.groupdict()
        assert len(lines) == len(command.lines), f"{command.arguments}\n{said}"
        assert exit_code == command.exit_code, f"{command.arguments}\n{said}"
    shutil.rmtree("cache")
