"""`wardround simulate --compare`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from wardround_shared.commands import console, print_json
from wardround_shared.errors import RunError
from wardround_shared.terminal import say
from wardround_simulations.comparison.compare import TEXT, CompareSettings, compare
from wardround_simulations.comparison.tables import sentences, show
from wardround_simulations.comparison.ways import studies_of
from wardround_simulations.settings import Settings
from wardround_simulations.steps import watching


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
    with watching(sys.stderr if json_ else sys.stdout) as watcher:
        result = compare(asked, watcher)
    if json_:
        print_json(result)
        return
    for table in show(result):
        console().print(table)
    for sentence in sentences(result):
        say(sentence)
    say(f"all metrics: {Path(result['folder']) / TEXT}")
