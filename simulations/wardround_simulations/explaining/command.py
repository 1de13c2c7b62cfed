"""`wardround explain`."""

from pathlib import Path
from typing import Annotated

import typer

from wardround_shared.commands import Json, errors, print_json
from wardround_shared.errors import RunError, RunFolderError
from wardround_shared.terminal import say
from wardround_simulations.options import Cache, default_cache


def explain(  # noqa: PLR0917 - the command's options
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="Images or signals, as for predict.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("explained"),
    class_: Annotated[
        str | None, typer.Option("--class", help="What to explain [default: the likeliest].")
    ] = None,
    columns: Annotated[
        Path | None,
        typer.Option(help="Table of the columns that the study has beside images or recordings."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="For tables: folder of examples to measure columns on.")
    ] = None,
    cache: Cache = None,
    json_: Json = False,
) -> None:
    """Draw what a run's model looks at; exits with 1 if some inputs could not be used."""
    with errors():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunFolderError(f"{out}: this is there and not empty; name another with --out.")
        if bool(inputs) == (data is not None):
            raise RunError("Name images or signals to explain, or for a table give --data.")
        for option, given in (("--class", class_), ("--columns", columns)):
            if data is not None and given is not None:
                raise RunError(f"{option}: it goes with images or signals; leave it out.")
        # They import torch.
        from wardround_simulations.evaluation import open_run  # noqa: PLC0415
        from wardround_simulations.explaining.attribution import require_captum  # noqa: PLC0415
        from wardround_simulations.explaining.explain import (  # noqa: PLC0415
            explain_columns,
            explain_inputs,
        )
        from wardround_simulations.prediction.prediction import Failure  # noqa: PLC0415

        opened = open_run(run)
        if data is not None:
            found = [explain_columns(opened, data, out, cache or default_cache())]
            failures = []
        else:
            require_captum()
            done = explain_inputs(opened, inputs or [], out, columns=columns, class_name=class_)
            found = [one for one in done if not isinstance(one, Failure)]
            failures = [one for one in done if isinstance(one, Failure)]
    for failure in failures:
        typer.echo(f"error: {failure.input}: {failure.why}.", err=True)
    if json_:
        print_json(
            {
                "pictures": [{"file": str(one.file), "said": one.said} for one in found],
                "failed": [{"input": one.input, "why": one.why} for one in failures],
            }
        )
    else:
        for one in found:
            say(one.said)
            say(f"  {one.file}")
    if failures:
        raise typer.Exit(1)
