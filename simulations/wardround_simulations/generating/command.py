"""`wardround generate`."""

import shlex
import signal
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
        float | None,
        typer.Option(
            min=0.001, max=1.0, help="With --effect-on: of the training patients [default: 0.1]."
        ),
    ] = None,
    repeat: Annotated[
        int | None,
        typer.Option(
            min=1, max=100, help="With --effect-on: mean over so many seeds [default: 3]."
        ),
    ] = None,
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
        beside = {"--data": data, "--share": share, "--repeat": repeat, "--set": set_}
        given = [name for name, value in {**beside, "--cache": cache}.items() if value]
        if effect_on is None and given:
            raise RunError(f"{given[0]}: it goes with --effect-on; leave it out.")
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
            share=share or 0.1,
            count=count,
            repeats=repeat or 3,
            command=shlex.join(["wardround", *sys.argv[1:]]),
        )
        # As on Ctrl-C: patients' images that were laid together are removed.
        signal.signal(signal.SIGTERM, _end)
        _measure(run, asked, out, json_=json_)


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _generate(run: Path, out: Path, count: int, seed: int, *, json_: bool) -> None:
    from wardround_simulations.evaluation import open_run  # noqa: PLC0415 - imports torch
    from wardround_simulations.generating.samples import (  # noqa: PLC0415 - imports torch
        sample,
        write_samples,
    )

    opened = open_run(run)
    samples = sample(opened, count, seed=seed)
    write_samples(samples, opened, out, seed=seed)
    if json_:
        print_json({"folder": str(out), "images": count})
        return
    if opened.not_private:
        say(f"privacy: {opened.not_private}: made images may be copies")
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
