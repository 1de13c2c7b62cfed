"""`wardround-site`: the hospital's command."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wardround_shared.errors import WardroundError
from wardround_shared.terminal import accept_every_letter, say

app = typer.Typer(
    help="Wardround at a hospital: what this site allows, and what it has spent.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
ledger = typer.Typer(help="The account of privacy spent; docs/ledger.md explains it.")
app.add_typer(ledger, name="ledger")

POLICY = "policy.toml"
"""Name of the policy file in the site's home."""

# Of what is not a terminal: wide enough that no table is cut.
_WIDTH_OF_A_FILE = 160

Home = Annotated[
    Path,
    typer.Option(envvar="WARDROUND_SITE_HOME", help="Folder of this site.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON on standard output.")]


@app.callback()
def site() -> None:
    """Wardround at a hospital: what this site allows, and what it has spent."""


@ledger.command(epilog="Example: wardround-site ledger show --home /var/lib/wardround")
def show(home: Home, json_: Json = False) -> None:
    """What each population and study has spent, what is left, and every reservation."""
    with _errors():
        from wardround_client.ledger import Ledger  # noqa: PLC0415 - takes a second
        from wardround_client.ledger.overview import overview  # noqa: PLC0415
        from wardround_client.policy import load_policy  # noqa: PLC0415

        opened = Ledger.open(home, site=None)
        policy = load_policy(home / POLICY) if (home / POLICY).exists() else None
        content = overview(opened, policy)
    if json_:
        say(json.dumps(content, allow_nan=False))
    else:
        _print_overview(content)


@ledger.command(epilog="Example: wardround-site ledger verify --home /var/lib/wardround")
def verify(home: Home, json_: Json = False) -> None:
    """Check every row, hash and seal; exit code 1 and one sentence for each fault."""
    with _errors():
        from wardround_client.ledger import verify as faults_of  # noqa: PLC0415 - takes a second

        faults = faults_of(home)
    if json_:
        say(json.dumps({"sound": not faults, "faults": faults}))
    for line in faults or ["The ledger is sound."]:
        if not json_:
            say(line)
    if faults:
        raise typer.Exit(1)


def main() -> None:
    """Entry point."""
    accept_every_letter()
    app()


def _print_overview(content: dict[str, Any]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_FILE)
    console.print(Text(f"ledger {content['ledger_id']} of the site {content['site']}"))
    console.print(Text(f"head {content['head']}"))
    if not content["reservations"]:
        console.print("Nothing was ever reserved.")
        return
    console.print(_populations(content))
    if any(population["cap"] is None for population in content["populations"]):
        console.print(Text(f"There is no {POLICY} here, so no cap is shown."))
    console.print(_studies(content))
    console.print(_reservations(content))


def _populations(content: dict[str, Any]) -> Table:
    table = _table(
        "Populations",
        "population",
        "data sets",
        "per",
        "cap",
        "delta",
        "PRV",
        "RDP",
        "spent",
        "left",
    )
    for one in content["populations"]:
        spent = one["spent"]
        _add(
            table,
            one["population"],
            ", ".join(one["data_sets"]),
            one["unit"],
            _epsilon(one["cap"]),
            f"{one['delta']:g}",
            _epsilon(spent["prv"]),
            _epsilon(spent["rdp"]),
            _epsilon(spent["epsilon"]),
            _epsilon(one["left"]),
        )
    return table


def _studies(content: dict[str, Any]) -> Table:
    table = _table(
        "Studies, each by itself",
        "population",
        "study",
        "id",
        "runs",
        "rounds",
        "PRV",
        "RDP",
        "spent",
    )
    for population in content["populations"]:
        for one in population["studies"]:
            spent = one["spent"]
            _add(
                table,
                population["population"],
                one["study"],
                one["study_id"][:12],
                str(len(one["runs"])),
                str(one["rounds"]),
                _epsilon(spent["prv"]),
                _epsilon(spent["rdp"]),
                _epsilon(spent["epsilon"]),
            )
    return table


def _reservations(content: dict[str, Any]) -> Table:
    table = _table(
        "Reservations",
        "",
        "time",
        "study",
        "run",
        "round",
        "data set",
        "noise",
        "rate",
        "steps",
        "state",
    )
    for one in content["reservations"]:
        _add(
            table,
            str(one["number"]),
            one["time"],
            one["study"],
            one["run"],
            str(one["round"]),
            one["data_set"],
            f"{one['noise_multiplier']:.4g}",
            f"{one['sample_rate']:.4g}",
            str(one["steps"]),
            one["state"],
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*map(Text, cells))  # a name may hold brackets, which would be taken for markup


def _epsilon(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


@contextmanager
def _errors() -> Iterator[None]:
    """One sentence on standard error and a non-zero exit, whatever goes wrong as foreseen."""
    try:
        yield
    except WardroundError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
