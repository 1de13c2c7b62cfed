"""`wardround tune`."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wardround_shared.commands import Json, errors
from wardround_simulations.options import Cache, default_cache, find_study


class Search(StrEnum):
    """How rounds are given to settings."""

    halving = "halving"
    random = "random"


def tune(  # noqa: PLR0917 - the command's options
    study: Annotated[str, typer.Argument(help="Study file or name.")],
    data: Annotated[Path | None, typer.Option(help="Folder where the study's files lie.")] = None,
    trials: Annotated[
        int, typer.Option(min=2, max=1000, help="Settings to try, the study's own among them.")
    ] = 20,
    folds: Annotated[int, typer.Option(min=2, max=20, help="Folds, by patient.")] = 3,
    space: Annotated[
        Path | None, typer.Option(help="What to vary [default: rate, batch, size, rounds].")
    ] = None,
    search: Annotated[
        Search, typer.Option(help="Whether most rounds go to the best only.")
    ] = Search.halving,
    sites: Annotated[
        int | None, typer.Option(min=1, help="Deal the patients to so many virtual sites.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes [default: one a core].")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="[default: runs/NAME-tune-TIME].")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of everything.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a study key in all trials."),
    ] = None,
    cache: Cache = None,
    json_: Json = False,
) -> None:
    """Search for better settings of a study, and write the best as a study file."""
    with errors():
        from wardround_simulations.tuning.printing import tune_and_print  # noqa: PLC0415 - slow

        tune_and_print(
            find_study(study),
            list(set_ or []),
            space=space,
            halving=search is Search.halving,
            trials=trials,
            folds=folds,
            data=data,
            sites=sites,
            workers=workers or os.cpu_count() or 1,
            out=out,
            seed=seed,
            cache=cache or default_cache(),
            json_=json_,
        )
