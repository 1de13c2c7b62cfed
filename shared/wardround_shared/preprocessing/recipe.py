"""A study's recipe, ready to use: decode records, fit over sites, transform arrays, augment.

n = examples, F = columns, S = static columns, C = channels, H, W = pixels, T = samples in time.
The way of one record: `decode` (once, then cached), `transform` with what was fitted on sums over
all sites, and in training `augmentation`.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wardround_shared.errors import CohortError, UnreadableError
from wardround_shared.preprocessing.augmentation import Augmentation
from wardround_shared.preprocessing.fitting import Array, FittedStep, Shape, Standardisation
from wardround_shared.preprocessing.histogram_matching import HistogramMatching
from wardround_shared.preprocessing.image import decode_image, resize_classes
from wardround_shared.preprocessing.record import Filling, decode_record
from wardround_shared.preprocessing.signal import decode_signal
from wardround_shared.preprocessing.stages import Stages, stages
from wardround_shared.preprocessing.table import (
    Columns,
    Imputation,
    OneHotEncoding,
    columns_of,
    numeric_positions,
)
from wardround_shared.preprocessing.text import decode_text
from wardround_shared.study import (
    Fill,
    Impute,
    MatchHistogram,
    OneHot,
    Resize,
    SignalsData,
    Standardise,
    Study,
)

Fitted = tuple[Mapping[str, Array], ...]
Parts = tuple[torch.Tensor, ...]
Augment = Callable[[Parts, torch.Tensor, torch.Generator], tuple[Parts, torch.Tensor]]

# Raise it with any change of code that changes what `decode` returns: caches are kept by it.
_DECODE_VERSION = 1
# Values handled at a time, 1 MB as float64: arrays may be larger than the memory, and small
# pieces need no fresh memory each time.
_CHUNK_VALUES = 1 << 17


class Recipe:
    """The preprocessing of one study.

    An example is a tuple of arrays, `(main,)` or `(main, static)`. `main` is float64 [F] of a
    table (NaN is missing, a categorical cell holds its category's number), float32 [C, H, W] of an
    image or [bins] after a histogram, float32 [C, T] of a signal, float32 [3 F, T] of a record
    over time (values, masks, gaps; NaN is missing), int32 [N, L] of a text. `static` is
    float64 [S].

    Attributes:
        needs_fit: names of the steps that need sums over sites, in order.
        cache_key: SHA-256 in hex of everything in the study that changes what `decode` returns.
        transform_key: likewise for `transform`, apart from what is fitted.

    Raises:
        StudyError: the steps are in an impossible order or do not fit the source.
    """

    def __init__(self, study: Study) -> None:
        self._stages = stages(study)
        self._masks = study.study.kind == "segmentation"
        self._sampling_rate = (
            study.data.sampling_rate if isinstance(study.data, SignalsData) else None
        )
        self._columns_part = 0 if self._stages.kind == "table" else 1
        self._steps = _array_steps(self._stages, self._columns_part)
        self.needs_fit = tuple(step.name for step in self._steps if step.needs_sums)
        self.cache_key = self._hash()
        self.transform_key = _transform_key(study)

    def _hash(self) -> str:
        plan = self._stages
        content = {
            "version": _DECODE_VERSION,
            "kind": plan.kind,
            "sampling_rate": self._sampling_rate,
            "steps": [step.model_dump(mode="json") for step in plan.record],
            "masks": self._masks,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    # --- one record --------------------------------------------------------------------------

    def decode(
        self,
        main: NDArray[Any],
        static: NDArray[Any] | None = None,
        *,
        sampling_rate: float | None = None,
    ) -> tuple[Array, ...]:
        """Take one raw record through the record steps.

        Args:
            main: [F] of a table, [H, W] or [H, W, 3] of an image, [C, T] or [T] of a signal,
                [F + 1, T] of a record over time, the last row being the days, texts [n] of a text.
            static: [S], exactly where the study has static columns.
            sampling_rate: of a signal, in Hz; without it, the study's.

        Returns:
            One example, without a leading axis.

        Raises:
            UnreadableError: the record cannot go through the recipe; set it aside.
        """
        width = len(self._stages.features)
        if self._stages.kind == "table":
            return (_cells(main, width),)
        decoded = self._decode_main(main, sampling_rate or self._sampling_rate)
        if not width:
            return (decoded,)
        if static is None:
            raise UnreadableError("the static columns of the record are not there.")
        return (decoded, _cells(static, width))

    def _decode_main(self, main: NDArray[Any], sampling_rate: float | None) -> Array:
        plan = self._stages
        if plan.kind == "image":
            return decode_image(main, plan.image)
        if plan.kind == "text":
            return decode_text(main, plan.text[0])
        if plan.kind == "record":
            return decode_record(main, plan.observed)
        return decode_signal(main, plan.signal, sampling_rate)

    def decode_target(self, target: NDArray[Any]) -> NDArray[Any]:
        """Take what is to be told of a record through the steps that move its pixels.

        Args:
            target: [H, W] of a mask, whose pixels are numbers of classes; anything else stays.
        """
        if not self._masks:
            return target
        for step in self._stages.image:
            if isinstance(step, Resize):
                target = resize_classes(target, step.size)
        return target

    # --- all records of a site ---------------------------------------------------------------

    def statistics(
        self,
        arrays: tuple[Array, ...],
        fitted: Fitted,
        *,
        index: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """Sums for the next step that is not in `fitted`, which add over sites.

        Args:
            arrays: decoded examples, [n, ...] each, possibly memory-mapped; n may be 0.
            fitted: of the earlier steps; they are applied first.
            index: rows that count, the training split say; they are copied chunk by chunk only.
                Without it, all rows.

        Raises:
            CohortError: a cell is missing and the recipe does not impute.
        """
        place = self._next(fitted)
        step = self._steps[place]
        array = arrays[step.part]
        total = step.sums(self._applied(array[:0], step.part, place, fitted))
        for rows in _chunks(array, len(array) if index is None else len(index)):
            chunk = array[rows if index is None else index[rows]]
            total = total + step.sums(self._applied(chunk, step.part, place, fitted))
        return total

    def statistics_length(self, shapes: Sequence[Shape], fitted: Fitted) -> int:
        """Length of `statistics` for decoded examples of these shapes."""
        place = self._next(fitted)
        step = self._steps[place]
        return step.length(self._shape(shapes[step.part], step.part, place))

    def fit(self, sums: NDArray[np.float64], fitted: Fitted) -> Mapping[str, Array]:
        """What the next step not in `fitted` needs, from its sums over all sites.

        Raises:
            CohortError: the sums are not finite.
        """
        return self._steps[self._next(fitted)].fit(np.asarray(sums, dtype=np.float64))

    def transform(self, arrays: tuple[Array, ...], fitted: Fitted) -> tuple[Array, ...]:
        """Take decoded examples through all array steps.

        Args:
            arrays: [n, ...] each, possibly memory-mapped; they are read by chunks, and those
                that no step touches and that are float32, or the int32 of a text, come back as they
                are.
            fitted: of every step in `needs_fit`.

        Returns:
            float32 [n, ...] each, without NaN; int32 [n, N, L] of a text.

        Raises:
            CohortError: a cell is missing and the recipe does not impute.
        """
        if len(fitted) != len(self.needs_fit):
            raise ValueError(f"{len(fitted)} of {len(self.needs_fit)} steps are fitted")
        return tuple(self._transform(array, part, fitted) for part, array in enumerate(arrays))

    def _transform(self, array: Array, part: int, fitted: Fitted) -> Array:
        ready = (np.float32, np.int32)  # hashes of words would not survive as float32
        if array.dtype in ready and not any(step.part == part for step in self._steps):
            return array
        end = len(self._steps)
        result = np.empty((len(array), *self._shape(array.shape[1:], part, end)), np.float32)
        for rows in _chunks(array, len(array)):
            result[rows] = self._applied(array[rows], part, end, fitted)
        return result

    def deviations(
        self, arrays: tuple[Array, ...], fitted: Fitted
    ) -> list[tuple[tuple[str, ...], NDArray[np.float64]]]:
        """How far decoded examples are from the training mean, for each standardise step.

        Returns:
            Names of the columns [M] (none where the step is by channel), and standard deviations
            [n, M, ...], NaN where a cell is missing; empty if the recipe does not standardise.
        """
        return [
            (step.names, step.deviations(chunk, fitted[number]))
            for number, (place, step) in enumerate(self._fitted_steps())
            if isinstance(step, Standardisation)
            for chunk in [self._applied(arrays[step.part], step.part, place, fitted)]
        ]

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        """Shapes of decoded examples -> shapes of examples after `transform`."""
        return tuple(
            self._shape(shape, part, len(self._steps)) for part, shape in enumerate(shapes)
        )

    # --- one batch ---------------------------------------------------------------------------

    def augmentation(self) -> Augment | None:
        """Random change of batches `(main, ...)` and targets, or None without an augment step."""
        step = self._stages.augment
        if step is None:
            return None
        return Augmentation(step, images=self._stages.kind == "image", masks=self._masks)

    # -----------------------------------------------------------------------------------------

    def _fitted_steps(self) -> list[tuple[int, FittedStep]]:
        """Place and step of all that need sums, in the order of `fitted`."""
        return [(place, step) for place, step in enumerate(self._steps) if step.needs_sums]

    def _next(self, fitted: Fitted) -> int:
        """Place of the next step to fit."""
        places = [place for place, _ in self._fitted_steps()]
        if len(fitted) >= len(places):
            raise ValueError("every step is fitted")
        return places[len(fitted)]

    def _applied(self, chunk: Array, part: int, end: int, fitted: Fitted) -> Array:
        """The chunk after the steps before place `end`."""
        self._refuse_missing(chunk, part)
        mappings = iter(fitted)
        for step in self._steps[:end]:
            mapping = next(mappings) if step.needs_sums else {}
            if step.part == part:
                chunk = step.apply(chunk, mapping)
        return chunk

    def _shape(self, shape: Shape, part: int, end: int) -> Shape:
        for step in self._steps[:end]:
            shape = step.shape(shape) if step.part == part else shape
        return shape

    def _refuse_missing(self, chunk: Array, part: int) -> None:
        if part != self._columns_part or "impute" in self.needs_fit:
            return
        missing = np.isnan(chunk).any(axis=0)
        if missing.any():
            column = self._stages.features[int(missing.argmax())].column
            raise CohortError(
                f"the column {column} has missing values and the study's recipe does not impute; "
                "add an impute step or leave the column out."
            )


def _transform_key(study: Study) -> str:
    """The whole recipe and the columns that it works on."""
    content = {
        "version": _DECODE_VERSION,
        "steps": study.preprocessing.model_dump(mode="json"),
        "data": study.data.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _array_steps(plan: Stages, columns_part: int) -> tuple[FittedStep, ...]:
    columns = columns_of(plan.features)
    result: list[FittedStep] = []
    for step in plan.array:
        made: HistogramMatching | Imputation | OneHotEncoding | Standardisation | Filling
        match step:
            case MatchHistogram():
                made = HistogramMatching()
            case Impute():
                made = Imputation(columns_part, columns, indicator=step.indicator)
                columns = made.columns
            case OneHot():
                made = OneHotEncoding(columns_part, columns)
                columns = made.columns
            case Fill():
                made = Filling(0, step)
            case Standardise(part="main") if plan.kind == "record":
                # Masks and gaps stay as they are.
                made = Standardisation(0, np.arange(plan.observed))
            case Standardise():
                made = _standardisation(1 if step.part == "static" else 0, columns_part, columns)
        result.append(made)
    return tuple(result)


def _standardisation(part: int, columns_part: int, columns: Columns) -> Standardisation:
    if part != columns_part:
        return Standardisation(part, None)
    positions = numeric_positions(columns)
    return Standardisation(part, positions, tuple(columns[i].name for i in positions))


def _cells(row: NDArray[Any], width: int) -> NDArray[np.float64]:
    cells = np.array(row, dtype=np.float64)
    if cells.shape != (width,):
        raise UnreadableError(
            f"the row has shape {cells.shape}, and the study has {width} columns."
        )
    if np.isinf(cells).any():
        raise UnreadableError("the row has a value that is not finite.")
    return cells


def _chunks(array: Array, count: int) -> Iterator[slice]:
    """Slices of `count` rows, few enough at a time."""
    rows = max(1, _CHUNK_VALUES // max(1, int(np.prod(array.shape[1:]))))
    return (slice(start, start + rows) for start in range(0, count, rows))
