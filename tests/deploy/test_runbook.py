"""Every command, path, port, metric and link in the runbook exists."""

import contextlib
import re
import shlex
from pathlib import Path

import click
import pytest
from typer.main import get_command

from wardround_client.cli import app as site_app
from wardround_server.cli import app as server_app
from wardround_server.daemon.metrics import RunFigures, ServerState, exposition
from wardround_server.enrolment.settings import HealthSettings, ListenSettings, MetricsSettings

APPS = {"wardround-server": server_app, "wardround-site": site_app}
OTHERS = {
    "alias",
    "docker",
    "install",
    "journalctl",
    "kubectl",
    "ln",
    "python3",
    "sha256sum",
    "systemctl",
    "tar",
    "useradd",
}
"""Programs of a machine that the runbook may count on."""
IN_THE_PROJECT = re.compile(
    r"(?<![\w./-])((?:deploy|docs|simulations)/[\w./-]+|constraints\.txt|CHANGELOG\.md)"
)
ON_THE_MACHINE = re.compile(r"(?<![\w.:/-])/(?:var|srv|opt|etc|usr)/[\w./-]+")
KNOWN_PLACES = (
    r"/var/lib/wardround-(server|site)(/(home/server\.toml|home|roster\.json|rosters/\d+\.json))?",
    r"/srv/(data|exchange)(/[\w.-]*)?",
    r"/opt/wardround(-\d+\.\d+\.\d+)?(/bin/(pip|wardround-server|wardround-site))?",
    r"/etc/systemd/system/(wardround-site\.service\.d/(gpu\.conf)?)?",
    r"/etc/wardround-site\.env",
    r"/usr/sbin/nologin",
    r"/var/lib",
)


@pytest.fixture(scope="module")
def text():
    return RUNBOOK


def typed(text):
    """Command lines of the blocks marked `sh`, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def mentioned(text):
    """Commands of ours that stand between backquotes in a sentence."""
    without_blocks = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", without_blocks)]
    return [span for span in spans if span.split()[0] in APPS and " " in span]


def check(line):
    """Raise `click.UsageError` or `ValueError` if one of our commands cannot be carried out."""
    program, *arguments = shlex.split(line, comments=True)
    if program not in APPS:
        if program not in OTHERS and not re.fullmatch(KNOWN_PLACES[2], program):
            raise ValueError(f"{program}: not a program of the runbook")
        return
    arguments += ["--home", "/home-of-a-test"]
    command, context, name = get_command(APPS[program]), None, program
    while isinstance(command, click.Group):
        context = command.make_context(name, arguments, parent=context)
        name, command, arguments = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
    command.make_context(name, arguments, parent=context)


def daemon_commands():
    """Every command there is, as `wardround-site study show`."""

    def below(command, path):
        if not isinstance(command, click.Group):
            yield path
            return
        for name, inner in command.commands.items():
            yield from below(inner, f"{path} {name}")

    return {path for name, app in APPS.items() for path in below(get_command(app), name)}


RUNBOOK = (Path(__file__).parents[2] / "deploy" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", dict.fromkeys(typed(RUNBOOK)))
def test_a_line_can_be_typed(line):
    check(line)


@pytest.mark.parametrize("span", dict.fromkeys(mentioned(RUNBOOK)))
def test_a_command_in_a_sentence_is_one(span):
    # A sentence may name a command without what has to follow it.
    with contextlib.suppress(click.MissingParameter):
        check(span)


@pytest.mark.parametrize(
    "wrong",
    [
        "wardround-server admitt x",
        "wardround-server admit",
        "wardround-server init --adress fl.example.org:9092",
        "wardround-server certificates renew now",
        "wardround-site study approve 3f2a",
        "wardround-site study aprove 3f2a --data heart",
        "wardround-site keys rotate x --force",
        "wardround init",
        "wget x",
    ],
)
def test_a_line_that_cannot_be_typed_is_noticed(wrong):
    with pytest.raises((click.UsageError, ValueError)):
        check(wrong)


def test_every_command_of_the_daemons_is_in_it(text):
    said = " ".join("\n".join([*typed(text), *mentioned(text)]).split())
    started_by_systemd = {"wardround-server start", "wardround-site start"}
    optional = {"wardround-site data list", "wardround-site study refuse"}
    missing = {one for one in daemon_commands() if one not in said}
    assert missing <= started_by_systemd | optional


def test_an_alias_ends_with_the_command_that_it_stands_for(text):
    aliases = [shlex.split(line)[1] for line in typed(text) if line.startswith("alias ")]
    assert len(aliases) == 8
    for alias in aliases:
        name, _, stands_for = alias.partition("=")
        assert stands_for.split()[-1].endswith(name.removeprefix("wardround-")), alias
        if "_HOME=" in stands_for:
            assert f"{name.upper().replace('-', '_')}_HOME=/var/lib/{name} " in stands_for


def test_every_file_of_the_project_is_there(text, root):
    named = set(IN_THE_PROJECT.findall(text))
    assert len(named) > 20
    assert {name for name in named if not (root / name.rstrip(".")).exists()} == set()


def test_every_file_of_this_folder_is_in_it_or_beside_one_that_is(text, deploy, root):
    named = {(root / name.rstrip(".")) for name in IN_THE_PROJECT.findall(text)}
    for file in deploy.rglob("*"):
        if file.is_file() and file.suffix != ".dockerignore" and file.name != "README.md":
            assert named & {file, *file.parents}, file


def test_every_place_on_a_machine_is_one_that_units_and_images_know(text):
    for place in set(ON_THE_MACHINE.findall(text)):
        assert any(re.fullmatch(known, place.rstrip(".")) for known in KNOWN_PLACES), place


def test_every_port_is_one_of_the_settings(text):
    ours = {str(one().port) for one in (ListenSettings, HealthSettings, MetricsSettings)}
    assert set(re.findall(r"\b90\d\d\b", text)) == ours


def test_every_metric_is_one_that_is_told(text):
    run = RunFigures(name="r", state="running", since_round=1.0)
    state = ServerState(
        serving=True,
        sites_registered=1,
        sites_online=1,
        runs=(run,),
        certificate_seconds=1.0,
        authority_seconds=1.0,
        superlink_restarts=0,
        runner_restarts=0,
    )
    told = set(re.findall(r"^(wardround_\w+)", exposition(state), flags=re.MULTILINE))
    named = set(re.findall(r"`(wardround_\w+)`", text))
    assert len(named) >= 8
    assert named <= told


def slug(heading):
    plain = re.sub(r"[^\w\s-]", "", heading.lower().replace("`", ""))
    return plain.strip().replace(" ", "-")


def test_every_link_leads_somewhere(text, deploy):
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        target = (deploy / name).resolve()
        assert target.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, link


@pytest.mark.parametrize("known", ["example.org", "proxy:3128"])
def test_hosts_are_examples_only(deploy, known):
    assert known in (deploy / "README.md").read_text(encoding="utf-8")
    for file in deploy.rglob("*"):
        if not file.is_file():
            continue
        for host in re.findall(r"https?://([\w.:-]+)", file.read_text(encoding="utf-8")):
            assert host in {"proxy:3128", "host:port"}, (file, host)
