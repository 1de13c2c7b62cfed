"""From inputs to pictures in a new folder."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wardround_shared.errors import RunError, RunFolderError, UnsupportedError
from wardround_shared.study import TableData
from wardround_shared.tasks import task_of
from wardround_simulations.evaluation import FinishedRun
from wardround_simulations.explaining.attribution import attribute
from wardround_simulations.explaining.permutation import importances
from wardround_simulations.explaining.pictures import draw_image, draw_importances, draw_signal
from wardround_simulations.prediction.prediction import Failure, Prepared, prepare_inputs

_WORST = 0.05


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A picture that was drawn, and a sentence about it."""

    file: Path
    said: str


def explain_inputs(
    run: FinishedRun,
    paths: Sequence[Path],
    out: Path,
    *,
    columns: Path | None,
    class_name: str | None,
) -> list[Explained | Failure]:
    """One picture an input, of an image or a signal.

    Args:
        run: whose model is asked.
        paths: of the inputs.
        out: folder of the pictures.
        columns: table of the static columns of images and recordings.
        class_name: what is to be explained; without it, the likeliest answer.

    Raises:
        RunError: the model takes tables, or has no such class.
        UnsupportedError: the task has no answer for a whole input.
    """
    if isinstance(run.study.data, TableData):
        raise RunError(
            "A table has no picture of its own; say with --data where examples lie, to see which "
            "columns count."
        )
    picture = run.study.study.modality in {"image", "signal"}
    if not picture or run.study.study.kind not in {"classification", "multilabel-classification"}:
        raise UnsupportedError(f"explain cannot draw the task {run.study.study.task} yet.")
    classes = run.study.study.classes
    if class_name is not None and class_name not in classes:
        raise RunError(f"--class {class_name}: the classes are {', '.join(classes)}.")
    done: list[Explained | Failure] = []
    for number, one in enumerate(prepare_inputs(run, paths, columns=columns), start=1):
        done.append(
            one if isinstance(one, Failure) else _explain(run, one, out, number, class_name)
        )
    return done


def explain_columns(run: FinishedRun, data: Path, out: Path, cache: Path) -> Explained:
    """One picture of a table's columns: how much each counts.

    Raises:
        RunError: the model takes no tables, or the metric is not defined on the data.
    """
    if not isinstance(run.study.data, TableData):
        raise RunError("--data is for tables; name the images or signals to explain.")
    metric, whole, found = importances(run, data, cache)
    file = _folder(out) / "columns.png"
    draw_importances(found, metric, f"{run.study.study.name}: which columns count", file)
    first = ", ".join(f"{one.column} {one.mean:.3f}" for one in found[:3])
    return Explained(file=file, said=f"{metric} {whole:.3f}; it falls most without {first}")


def _explain(
    run: FinishedRun, one: Prepared, out: Path, number: int, class_name: str | None
) -> Explained:
    parts = tuple(torch.from_numpy(part[None]) for part in one.parts)
    classes = run.study.study.classes
    with torch.inference_mode():
        values = task_of(run.study).predictions(run.module(*parts))[0].numpy()
    chances = values if values.ndim == 1 else values[:, 1]
    output = int(chances.argmax()) if class_name is None else classes.index(class_name)
    found = attribute(run.module, parts, output)
    title = f"{run.study.study.name}: what speaks for {classes[output]} ({chances[output]:.3f})"
    stem = re.sub(r"[^\w.-]+", "-", Path(one.input).name)
    file = _folder(out) / f"{number:03}-{stem}.png"
    main = one.parts[0]
    if main.ndim == 3:
        draw_image(main, found, title, file)
    elif main.ndim == 2:
        draw_signal(main, found, _channels(run, main), title, file)
    else:
        raise RunError("The study's preprocessing leaves no image or signal: there is no picture.")
    said = f"{one.input}: what speaks for {classes[output]} ({chances[output]:.3f})"
    if len(parts) > 1:
        kind = "image" if main.ndim == 3 else "signal"
        said += f"; {found.beside:.0%} of what counts is in the columns beside the {kind}"
    if found.missing > _WORST:
        said += f"; the shares miss the answer by {found.missing:.0%}: take them as a hint only"
    return Explained(file=file, said=said)


def _channels(run: FinishedRun, main: NDArray[np.float32]) -> list[str]:
    leads: tuple[str, ...] = getattr(run.study.data, "leads", ())
    first = list(leads) or [str(number) for number in range(1, len(main) + 1)]
    usual = [f"{name}, usual" for name in leads]  # the patient's median, as further channels
    return [*first, *usual][: len(main)]


def _folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{out}: cannot be made ({error.strerror}).") from error
    return out
