"""From inputs to what the model says of them, one input after the other.

K = classes or findings, B = examples in a batch.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wardround_client.sources import RawRecord, SetAside
from wardround_client.sources.input_columns import Beside, columns_beside
from wardround_client.sources.inputs import read_inputs
from wardround_client.training import EVALUATION_BATCH, predict
from wardround_shared.errors import CohortError, RunError, UnreadableError
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import SequencesData
from wardround_shared.tasks import NO_CLASS, task_of
from wardround_simulations.evaluation import FinishedRun
from wardround_simulations.prediction.likeness import warnings_on

Parts = tuple[NDArray[np.float32], ...]

_NUMBER = re.compile(r"[0-9]+$")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model says of one input.

    Attributes:
        path: the file it is in.
        input: its name.
        values: what the study's task reads off the model's output, float64 [...].
        warnings: how the input is unlike the training data.
        size: height and width of an image before the recipe, in pixels; None of anything else.
        steps: how many steps of a sequence there are in the file; None of anything else.
    """

    path: Path
    input: str
    values: NDArray[np.float64]
    warnings: tuple[str, ...]
    size: tuple[int, int] | None = None
    steps: int | None = None

    @property
    def number(self) -> int | None:
        """Of the frame or slice, from 1, or of the first step, from 0; None of a whole file."""
        found = _NUMBER.search(self.input.removeprefix(str(self.path)))
        return int(found.group()) if found else None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An input that the model cannot be asked about, and why; `path` is the file it is in."""

    path: Path
    input: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An input as the network takes it; the other attributes are those of `Prediction`."""

    path: Path
    input: str
    parts: Parts
    warnings: tuple[str, ...]
    size: tuple[int, int] | None
    steps: int | None


def predict_inputs(
    run: FinishedRun, paths: Iterable[Path], *, columns: Beside | None = None
) -> Iterator[Prediction | Failure]:
    """Predict every example in every input, in their order.

    Reading, decoding and the fitted steps are those of training, and the network is asked in
    batches of the size that `evaluate` takes.

    Args:
        run: whose model is used.
        paths: of the inputs.
        columns: static columns of images and recordings: a table, or the cells of one.

    Raises:
        RunError: the model's output is not finite, or it takes no columns beside a file.
    """
    waiting: list[Prepared | Failure] = []
    for one in prepare_inputs(run, paths, columns=columns):
        waiting.append(one)
        if len(_ready(waiting)) == EVALUATION_BATCH:
            yield from _answered(run, waiting)
            waiting = []
    yield from _answered(run, waiting)


def prepare_inputs(
    run: FinishedRun, paths: Iterable[Path], *, columns: Beside | None = None
) -> Iterator[Prepared | Failure]:
    """Every example in every input as the network takes it; arguments as `predict_inputs`.

    Raises:
        RunError: columns are given to a model that takes none.
    """
    if columns and not columns_beside(run.study):
        raise RunError(
            "Columns were given, and the model takes none beside a file; leave them out."
        )
    for path in paths:
        empty = True
        for record in read_inputs(run.study, path, columns=columns):
            empty = False
            yield _prepare(run, path, record)
        if empty:
            yield Failure(path=path, input=str(path), why="there is no example in it")


def _ready(waiting: Sequence[Prepared | Failure]) -> list[Prepared]:
    return [one for one in waiting if isinstance(one, Prepared)]


def _answered(
    run: FinishedRun, waiting: Sequence[Prepared | Failure]
) -> Iterator[Prediction | Failure]:
    """One batch, in order."""
    ready = _ready(waiting)
    values = iter(_asked(run, [one.parts for one in ready]) if ready else ())
    for one in waiting:
        if isinstance(one, Failure):
            yield one
        else:
            yield Prediction(
                path=one.path,
                input=one.input,
                values=next(values),
                warnings=one.warnings,
                size=one.size,
                steps=one.steps,
            )


def _asked(run: FinishedRun, examples: Sequence[Parts]) -> NDArray[np.float64]:
    parts = tuple(torch.from_numpy(np.stack(part)) for part in zip(*examples, strict=True))
    values = predict(run.module, [parts], task_of(run.study))
    if not np.isfinite(values).all():
        raise RunError("The model's output is not finite: its training has diverged.")
    return values


# --- one input -------------------------------------------------------------------------------


def _prepare(run: FinishedRun, path: Path, record: RawRecord | SetAside) -> Prepared | Failure:
    if isinstance(record, SetAside):
        return Failure(path=path, input=record.key, why=record.reason)
    recipe = Recipe(run.study)
    try:
        example = recipe.decode(record.main, record.static, sampling_rate=record.sampling_rate)
        _require_shapes(run, example)
        made = recipe.transform(tuple(part[None] for part in example), run.fitted)
    except (UnreadableError, CohortError) as error:
        return Failure(path=path, input=record.key, why=str(error).rstrip("."))
    return Prepared(
        path=path,
        input=record.key,
        parts=tuple(part[0] for part in made),
        warnings=warnings_on(run, example),
        size=_pixels(run, record),
        steps=_steps(run, record),
    )


def _pixels(run: FinishedRun, record: RawRecord) -> tuple[int, int] | None:
    if run.study.study.modality != "image":
        return None
    height, width = record.main.shape[:2]
    return height, width


def _steps(run: FinishedRun, record: RawRecord) -> int | None:
    """What a file lacks at its end was filled up, and has no class."""
    if not isinstance(run.study.data, SequencesData):
        return None
    return int((record.target != NO_CLASS).sum())


def _require_shapes(run: FinishedRun, example: tuple[NDArray[np.generic], ...]) -> None:
    """Refuse an example of another shape than those that the model was trained on.

    Networks over images and signals would take many a shape, and answer anything.
    """
    for part, trained in zip(example, run.shapes, strict=True):
        if part.shape != trained:
            raise UnreadableError(
                f"it is {_size(part.shape)} after the study's record steps, and the model takes "
                f"{_size(trained)}; the study has no step that would make one of the other"
            )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
