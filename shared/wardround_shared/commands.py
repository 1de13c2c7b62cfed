"""What the three commands have in common: how they end, what they print, what they ask."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wardround_shared.audit_log import AuditLog, Head, head, verify
from wardround_shared.errors import WardroundError
from wardround_shared.terminal import say

# Of what is not a terminal: wide enough that no table is cut.
_WIDTH_OF_A_FILE = 160

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON on standard output.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def new_app(what: str) -> typer.Typer:
    """A command, or a group of commands."""
    return typer.Typer(
        help=what, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
    )


@contextmanager
def errors() -> Iterator[None]:
    """One sentence on standard error and a non-zero exit, whatever goes wrong as foreseen."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        yield
    except WardroundError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise interrupted() from None


def interrupted(what_is_left: str = "") -> typer.Exit:
    """The end of a command that was interrupted from the keyboard."""
    typer.echo(f"interrupted{what_is_left}.", err=True)
    return typer.Exit(130)


def print_json(content: Any) -> None:
    """One line of JSON on standard output."""
    say(json.dumps(content, allow_nan=False))


def console() -> Console:
    """Where tables go: as wide as the terminal, or wide enough for a file."""
    found = Console()
    return found if found.is_terminal else Console(width=_WIDTH_OF_A_FILE)


def table(title: str, *columns: str) -> Table:
    """An empty table."""
    made = Table(title=title, title_justify="left")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def add_row(to: Table, *cells: str) -> None:
    """Add a row of plain text: a name may hold brackets, which would be taken for markup."""
    to.add_row(*map(plain, cells))


def plain(text: str) -> Text:
    """Text from elsewhere, in which neither markup nor a terminal's commands are obeyed."""
    return Text("".join(letter if letter.isprintable() else "?" for letter in text))


def confirm(question: str, *, yes: bool) -> None:
    """Ask, and end the command where the answer is no."""
    if not yes and not typer.confirm(question):
        typer.echo("Nothing was changed.", err=True)
        raise typer.Exit(1)


def log_in_order(file: Path) -> AuditLog:
    """An audit log to which the line about a change can be appended: ask before the change.

    Raises:
        AuditError: it cannot.
    """
    log = AuditLog(file)
    log.require_appendable()
    return log


def verify_audit_log(file: Path, *, known: str | None, json_: bool) -> None:
    """`audit verify` of either side: exit code 1 and one sentence for each fault."""
    with errors():
        expected = None if known is None else Head.parse(known)
        faults = verify(file, known=expected)
        last = None if faults else head(file)
    if json_:
        print_json({"sound": not faults, "faults": faults, "head": str(last) if last else None})
    else:
        where = f"; its head is {last}" if last else " and empty"
        for line in faults or (f"The audit log is sound{where}.",):
            say(line)
    if faults:
        raise typer.Exit(1)
