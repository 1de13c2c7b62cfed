"""`wardround predict`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround_shared.commands import Json, errors, print_json
from wardround_shared.errors import RunFolderError
from wardround_shared.terminal import say

if TYPE_CHECKING:
    from wardround_simulations.prediction.attachments import Attachment
    from wardround_simulations.prediction.output import Answers
    from wardround_simulations.prediction.predictor import Predictor


def predict(  # noqa: PLR0917 - the command's options
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Files as the study's source has them: DICOM, PNG, CSV, WFDB, FHIR."),
    ],
    columns: Annotated[
        Path | None,
        typer.Option(help="Table of the columns that the study has beside images or recordings."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write a CSV file.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="New folder for the masks of a segmentation, as PNG.")
    ] = None,
    dicom_out: Annotated[
        Path | None,
        typer.Option(
            help="New folder for structured reports and segmentations of DICOM inputs; they have "
            "the patient's name. Needs the extra dicom."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Ask a run's model about new inputs; exits with 1 if some could not be used.

    For example: wardround predict runs/phantom-20260101-120000 chest.dcm --dicom-out answers
    """
    with errors():
        if out is not None and os.path.lexists(out):
            raise RunFolderError(f"{out}: this file exists already; name another with --out.")
        from wardround_simulations.prediction.predictor import (  # noqa: PLC0415 - imports torch
            Predictor,
        )

        model = Predictor(run)
        attachments = _attachments(model, masks, dicom_out)
        answers = model.ask(inputs, columns=columns, attachments=attachments)
        if out is not None and answers.rows:
            from wardround_simulations.prediction.output import write_csv  # noqa: PLC0415

            write_csv(answers, out)
    _tell(answers, [out, masks, dicom_out], json_=json_)
    if answers.failures:
        raise typer.Exit(1)


def _attachments(
    model: "Predictor", masks: Path | None, dicom_out: Path | None
) -> list["Attachment"]:
    from wardround_simulations.prediction.attachments import NewFolder  # noqa: PLC0415

    made: list[Attachment] = []
    if masks is not None:
        from wardround_simulations.prediction.masks import Masks  # noqa: PLC0415

        made.append(Masks(model.study, NewFolder(masks, "--masks")))
    if dicom_out is not None:
        from wardround_simulations.prediction.dicom.reports import Reports  # noqa: PLC0415

        made.append(Reports(model, NewFolder(dicom_out, "--dicom-out")))
    return made


def _tell(answers: "Answers", places: list[Path | None], *, json_: bool) -> None:
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
    for place in places:
        if place is not None and os.path.lexists(place):
            say(f"written: {place}")
