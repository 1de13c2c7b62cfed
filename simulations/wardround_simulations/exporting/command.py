"""`wardround export`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wardround_shared.commands import Json, errors, print_json
from wardround_shared.terminal import say
from wardround_simulations.options import Cache, default_cache


class FormatName(StrEnum):
    """What can be written."""

    onnx = "onnx"
    torch_export = "torch-export"
    safetensors = "safetensors"


def export(  # noqa: PLR0917 - the command's options
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    format_: Annotated[FormatName, typer.Option("--format", help="onnx needs the extra onnx.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Compare on real inputs from here [default: on random ones]."),
    ] = None,
    cache: Cache = None,
    json_: Json = False,
) -> None:
    """Write a run's model for other software, and check it against the original."""
    with errors():
        # They import torch.
        from wardround_simulations.exporting.export import export_model  # noqa: PLC0415

        done = export_model(run, format_.value, out, data=data, cache=cache or default_cache())
    difference = done.difference
    if json_:
        print_json(
            {
                "file": str(done.file),
                "largest_difference": difference.largest,
                "examples": difference.examples,
                "real_inputs": difference.real,
                "private": not done.not_private,
            }
        )
        return
    which = "real" if difference.real else "made-up"
    say(
        f"largest difference from the original: {difference.largest:.2g}, over "
        f"{difference.examples} {which} inputs"
    )
    if done.not_private:
        say(f"privacy: {done.not_private}")
    say(f"written: {done.file}")
