"""`wardround predict`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wardround_shared.commands import Json, errors, print_json
from wardround_shared.errors import RunFolderError
from wardround_shared.terminal import say

if TYPE_CHECKING:
    from wardround_shared.study import Study
    from wardround_simulations.prediction.output import Answers


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(help="DICOM, PNG or JPEG, WFDB, npz or CSV files, as the study's source."),
    ],
    columns: Annotated[
        Path | None,
        typer.Option(help="Table of the columns that the study has beside WFDB records."),
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
    # They import torch.
    from wardround_simulations.evaluation import open_run, read_summary  # noqa: PLC0415
    from wardround_simulations.prediction.answers import Reader  # noqa: PLC0415
    from wardround_simulations.prediction.likeness import IMPOSSIBLE, can_compare  # noqa: PLC0415
    from wardround_simulations.prediction.output import Answers  # noqa: PLC0415
    from wardround_simulations.prediction.prediction import (  # noqa: PLC0415
        Failure,
        predict_inputs,
    )

    run, summary = open_run(path), read_summary(path)
    reader = Reader(run.study, (summary.get("counts") or {}).get("overall") or [])
    found = list(predict_inputs(run, inputs, columns=columns))
    not_private = _not_private(run.study, summary)
    card = _card(path)
    notes = [f"calibration: {reader.calibration}"]
    if not can_compare(run):
        notes.append(f"note: {IMPOSSIBLE}")
    if not_private:
        notes.append(f"privacy: {not_private}")
    notes.append(f"what the model is for, and what it is not: {card or 'this run has no card'}")
    return Answers(
        about={
            "run": str(path),
            "study": run.study.study.name,
            "study_id": run.study.study_id,
            "classes": list(run.study.study.classes),
            "model_card": card,
            "calibration": reader.calibration,
            "compared_with_training_data": can_compare(run),
        },
        rows=[(one, reader.read(one.values)) for one in found if not isinstance(one, Failure)],
        failures=[one for one in found if isinstance(one, Failure)],
        not_private=not_private,
        notes=notes,
    )


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


def _not_private(study: "Study", summary: dict[str, Any]) -> str:
    if not study.privacy.private:
        return "NONE (mechanism = none): this model may reveal its training data"
    if summary.get("noise", "system") != "system":
        return "NONE (the noise was injected for a test): this model may reveal its training data"
    return ""


def _card(path: Path) -> str | None:
    from wardround_server.card import CARD  # noqa: PLC0415 - imports torch

    return str(path / CARD) if (path / CARD).is_file() else None
