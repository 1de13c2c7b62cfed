"""`wardround simulate --compare`."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console

from wardround_shared.commands import console, print_json
from wardround_shared.errors import RunError
from wardround_shared.terminal import say
from wardround_simulations.comparison.compare import TEXT, CompareSettings, compare
from wardround_simulations.comparison.progress import Bars, Lines, Watcher
from wardround_simulations.comparison.tables import sentences, show
from wardround_simulations.comparison.ways import studies_of
from wardround_simulations.federation import Settings


def compare_and_print(
    file: Path, overrides: Sequence[str], settings: Settings, *, repeats: int, json_: bool
) -> None:
    """Compare the ways of training a study, and print the table.

    Raises:
        WardroundError: of any kind.
    """
    for option, given in (("--homes", settings.homes), ("--policy", settings.policy)):
        if given is not None:
            raise RunError(
                f"--compare and {option}: a comparison has ledgers of its own, which end with it; "
                f"leave {option} out."
            )
    asked = CompareSettings(
        studies=studies_of(file, overrides),
        settings=settings,
        repeats=repeats,
        command=shlex.join(["wardround", *sys.argv[1:]]),
    )
    with _watcher(sys.stderr if json_ else sys.stdout) as watcher:
        result = compare(asked, watcher)
    if json_:
        print_json(result)
        return
    for table in show(result):
        console().print(table)
    for sentence in sentences(result):
        say(sentence)
    say(f"all metrics: {Path(result['folder']) / TEXT}")


@contextmanager
def _watcher(stream: TextIO) -> Iterator[Watcher]:
    if stream.isatty():
        with Bars(Console(file=stream)) as bars:
            yield bars
    else:
        yield Lines(stream)
