"""`wardround generate`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround_shared.commands import Json, console, errors, plain, print_json, table
from wardround_shared.errors import RunError
from wardround_shared.terminal import say
from wardround_simulations.options import Cache, default_cache, find_study

if TYPE_CHECKING:
    from wardround_simulations.generating.effect import EffectSettings


def generate(  # noqa: PLR0917 - the command's options
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of an image generation.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Images to make.")] = 1000,
    effect_on: Annotated[
        str | None,
        typer.Option(help="Measure instead what they bring to this classifier: study or file."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="With --effect-on: folder where its files lie.")
    ] = None,
    share: Annotated[
        float,
        typer.Option(min=0.001, max=1.0, help="With --effect-on: of the training patients."),
    ] = 0.1,
    repeat: Annotated[
        int, typer.Option(min=1, max=100, help="With --effect-on: mean over so many seeds.")
    ] = 3,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the classifier's."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of everything.")] = 0,
    cache: Cache = None,
    json_: Json = False,
) -> None:
    """Let a run's generator make images, or measure what they bring to a classifier."""
    with errors():
        if effect_on is None and (data is not None or set_):
            raise RunError("--data and --set: they go with --effect-on; leave them out.")
        if effect_on is None:
            _generate(run, out, count, seed, json_=json_)
            return
        from wardround_simulations.comparison.ways import studies_of  # noqa: PLC0415 - torch
        from wardround_simulations.generating.effect import EffectSettings  # noqa: PLC0415 - torch
        from wardround_simulations.settings import Settings  # noqa: PLC0415 - torch

        settings = Settings(
            study=studies_of(find_study(effect_on), list(set_ or [])).plain,
            data=data,
            sites=None,
            backend="inline",
            workers=1,
            device="cpu",
            out=None,
            seed=seed,
            cache=cache or default_cache(),
        )
        asked = EffectSettings(
            settings=settings,
            share=share,
            count=count,
            repeats=repeat,
            command=shlex.join(["wardround", *sys.argv[1:]]),
        )
        _measure(run, asked, out, json_=json_)


def _generate(run: Path, out: Path, count: int, seed: int, *, json_: bool) -> None:
    from wardround_simulations.evaluation import open_run  # noqa: PLC0415 - imports torch
    from wardround_simulations.generating.samples import (  # noqa: PLC0415 - imports torch
        sample,
        write_samples,
    )

    opened = open_run(run)
    write_samples(sample(opened, count, seed=seed), opened, out, seed=seed)
    if json_:
        print_json({"folder": str(out), "images": count})
        return
    if not opened.study.privacy.private:
        say("privacy: NONE (mechanism = none): made images may be copies of training images")
    say(f"{count} images: {out}")


def _measure(run: Path, asked: "EffectSettings", out: Path, *, json_: bool) -> None:
    from wardround_simulations.evaluation import open_run  # noqa: PLC0415 - imports torch
    from wardround_simulations.generating.effect import effect  # noqa: PLC0415 - imports torch
    from wardround_simulations.generating.effect_text import rows, sentences  # noqa: PLC0415
    from wardround_simulations.steps import watching  # noqa: PLC0415

    with watching(sys.stderr if json_ else sys.stdout) as watcher:
        result = effect(open_run(run), asked, out, watcher)
    if json_:
        print_json(result)
        return
    head, lines = rows(result)
    shown = table("What made images bring", *head)
    for line in lines:
        shown.add_row(*map(plain, line))
    console().print(shown)
    for sentence in sentences(result):
        say(sentence)
