"""What `wardround tune` does and prints, behind its options."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from wardround_shared.commands import console, print_json
from wardround_shared.study import load_study
from wardround_shared.terminal import say
from wardround_simulations.settings import Settings
from wardround_simulations.steps import watching
from wardround_simulations.tuning.space import read_space
from wardround_simulations.tuning.told import sentences, show
from wardround_simulations.tuning.tune import BEST, PLOT, TEXT, TuneSettings, tune


def tune_and_print(
    file: Path,
    overrides: Sequence[str],
    *,
    space: Path | None,
    halving: bool,
    trials: int,
    folds: int,
    data: Path | None,
    sites: int | None,
    workers: int,
    out: Path | None,
    seed: int,
    cache: Path,
    json_: bool,
) -> None:
    """Search for better settings of a study, and print the table.

    Raises:
        WardroundError: of any kind.
    """
    asked = TuneSettings(
        file=file,
        overrides=overrides,
        settings=Settings(
            study=load_study(file, overrides),
            data=data,
            sites=sites,
            backend="inline",
            workers=workers,
            device="cpu",
            out=out,
            seed=seed,
            cache=cache,
        ),
        space=None if space is None else read_space(space),
        trials=trials,
        folds=folds,
        halving=halving,
        command=shlex.join(["wardround", *sys.argv[1:]]),
    )
    with watching(sys.stderr if json_ else sys.stdout) as watcher:
        result = tune(asked, watcher)
    if json_:
        print_json(result)
        return
    console().print(show(result))
    for sentence in sentences(result):
        say(sentence)
    folder = Path(result["folder"])
    say(f"best: {folder / BEST}; all: {folder / TEXT}, {folder / PLOT}")
