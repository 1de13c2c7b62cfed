"""`wardround predict`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround_shared.commands import Json, errors, print_json
from wardround_shared.errors import RunFolderError
from wardround_shared.terminal import say

if TYPE_CHECKING:
    from wardround_simulations.prediction.output import Answers


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(help="DICOM, PNG or JPEG, WFDB, npz or CSV files, as the study's source."),
    ],
    columns: Annotated[
        Path | None,
        typer.Option(help="Table of the columns that the study has beside images or recordings."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write a CSV file.")] = None,
    json_: Json = False,
) -> None:
    """Ask a run's model about new inputs; exits with 1 if some could not be used."""
    with errors():
        if out is not None and os.path.lexists(out):
            raise RunFolderError(f"{out}: this file exists already; name another with --out.")
        answers = _answers(run, inputs, columns)
        if out is not None and answers.rows:
            from wardround_simulations.prediction.output import write_csv  # noqa: PLC0415

            write_csv(answers, out)
    _tell(answers, out, json_=json_)
    if answers.failures:
        raise typer.Exit(1)


def _answers(path: Path, inputs: list[Path], columns: Path | None) -> "Answers":
    from wardround_simulations.prediction.predictor import Predictor  # noqa: PLC0415 - imports torch

    return Predictor(path).ask(inputs, columns=columns)


def _tell(answers: "Answers", out: Path | None, *, json_: bool) -> None:
    from wardround_simulations.prediction.output import (  # noqa: PLC0415
        as_json,
        complaints,
        show,
    )

    for complaint in complaints(answers.failures):
        typer.echo(f"error: {complaint}.", err=True)
    if json_:
        print_json(as_json(answers))
        return
    show(answers)
    if out is not None and answers.rows:
        say(f"written: {out}")
