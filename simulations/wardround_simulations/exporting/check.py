"""An exported model against the original, on the same inputs. B = examples in a batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wardround_client.cohort import build_cohorts
from wardround_shared.errors import RunError
from wardround_shared.preprocessing import Recipe
from wardround_simulations.evaluation import FinishedRun
from wardround_simulations.exporting.formats import Call

Inputs = tuple[Tensor, ...]

LARGEST = 1e-4
"""Of the differences that are let through, over the size of the outputs where that is above 1."""

_MOST = 64
_SIZES = (1, 2, 7)
_SEED = 20260302


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What a comparison found.

    Attributes:
        largest: difference of two numbers, over all outputs of all examples.
        examples: how many were compared.
        real: whether they were real ones.
    """

    largest: float
    examples: int
    real: bool


def real_inputs(run: FinishedRun, data: Path, cache: Path) -> list[Inputs]:
    """Prepared examples of a data folder, at most 64, in batches of several sizes.

    Raises:
        DataError: the data cannot be used as the study describes them.
    """
    cohort = build_cohorts(run.study, data, cache=cache).cohorts[0]
    few = tuple(np.array(array[:_MOST]) for array in cohort.arrays)
    parts = Recipe(run.study).transform(few, run.fitted)
    return [*_batches(tuple(torch.from_numpy(part) for part in parts))]


def made_up_inputs(run: FinishedRun) -> list[Inputs]:
    """Random inputs of the right shape: standard normal, as standardised ones roughly are."""
    random = torch.Generator().manual_seed(_SEED)
    shapes = Recipe(run.study).output_shapes(run.shapes)
    number = sum(_SIZES)
    parts = tuple(torch.randn((number, *shape), generator=random) for shape in shapes)
    return [*_batches(parts)]


def compare(run: FinishedRun, call: Call, batches: list[Inputs], *, real: bool) -> Difference:
    """Give both the same inputs.

    Raises:
        RunError: they differ by more than rounding does, or give another shape.
    """
    largest = 0.0
    for inputs in batches:
        with torch.inference_mode():
            original, found = run.module(*inputs), call(inputs)
        if original.shape != found.shape:
            raise RunError(
                f"The exported model gives {tuple(found.shape)} instead of "
                f"{tuple(original.shape)}; nothing was written, take another format."
            )
        apart = (original - found).abs()
        if not bool((apart <= LARGEST * original.abs().clamp(min=1.0)).all()):
            raise RunError(
                f"The exported model differs from the original by {float(apart.max()):.2g}, which "
                "is more than rounding; nothing was written, take another format."
            )
        largest = max(largest, float(apart.max()))
    return Difference(largest=largest, examples=sum(len(b[0]) for b in batches), real=real)


def _batches(parts: Inputs) -> Iterator[Inputs]:
    """All examples, in batches of 1, 2, 7 and the rest."""
    start, total = 0, len(parts[0])
    for size in (*_SIZES, total):
        if start < total:
            yield tuple(part[start : start + size] for part in parts)
            start += size
