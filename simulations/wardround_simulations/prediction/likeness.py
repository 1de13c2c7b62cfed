"""Whether an input is unlike the training data, from what the model file has of them.

That is the mean and the spread of each column, or of all pixels or samples of each channel, where
the study standardises: sums that sites gave anyway. By Chebyshev's inequality at most one training
example in sixteen can be `FAR` or more from the mean in one column, and by Markov's at most one in
sixteen can have a channel whose root mean square is `FAR` or more, however they are distributed;
usually far fewer are.

It catches gross differences: another unit, another device with another range, a blank image. It
does not catch another organ, an artefact, or an unusual combination of usual values, and after
a step that brings each example to a range of its own (`normalise`) it catches little.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wardround_shared.preprocessing import Recipe
from wardround_simulations.evaluation import FinishedRun

FAR = 4.0
"""Standard deviations of the training data."""

_FLAT = 0.02
_MOST_MISSING = 0.5
_MOST_NAMED = 3

IMPOSSIBLE = (
    "inputs are not compared with the training data: the study has no standardise step, and the "
    "model file nothing to compare with"
)


def can_compare(run: FinishedRun) -> bool:
    """Whether the run has any constants to compare with."""
    return "standardise" in Recipe(run.study).needs_fit


def warnings_on(run: FinishedRun, example: tuple[NDArray[np.generic], ...]) -> tuple[str, ...]:
    """Why one decoded example is unlike the training data; none if it is not, or cannot be told.

    Args:
        run: whose model is used.
        example: parts [...], before the fitted steps.
    """
    warnings = list(_missing(example))
    one = tuple(part[None] for part in example)
    for names, deviations in Recipe(run.study).deviations(one, run.fitted):
        found = deviations[0]
        warnings += _of_columns(names, found) if names else _of_channels(run, found)
    return tuple(warnings)


def _missing(example: tuple[NDArray[np.generic], ...]) -> Sequence[str]:
    """Of a table, or of the columns beside an image or signal."""
    cells = [part for part in example if part.ndim == 1 and part.dtype == np.float64]
    share = max((float(np.isnan(part).mean()) for part in cells if part.size), default=0.0)
    return [f"{share:.0%} of the columns are missing"] if share > _MOST_MISSING else []


def _of_columns(names: tuple[str, ...], deviations: NDArray[np.float64]) -> list[str]:
    """deviations: [M]."""
    away = np.nan_to_num(np.abs(deviations), nan=0.0, posinf=np.inf)
    far = [int(place) for place in np.argsort(-away) if away[place] >= FAR]
    warnings = [f"{names[place]} is {_far(away[place])}" for place in far[:_MOST_NAMED]]
    more = len(far) - _MOST_NAMED
    return [*warnings, f"and {more} further columns are far off"] if more > 0 else warnings


def _far(deviations: float) -> str:
    if np.isinf(deviations):
        return "not the one value that all training examples had"
    return f"{deviations:.1f} standard deviations from the training mean"


def _of_channels(run: FinishedRun, deviations: NDArray[np.float64]) -> list[str]:
    """deviations: [C, ...], or [bins] after a histogram."""
    values = deviations.reshape(len(deviations), -1)
    if values.shape[1] == 1:
        bins = tuple(f"bin {number}" for number in range(1, len(values) + 1))
        return _of_columns(bins, values[:, 0])
    warnings = []
    for place, channel in enumerate(values):
        name = _channel(run, place, len(values))
        size = float(np.sqrt(np.mean(np.square(channel))))
        if size >= FAR:
            warnings.append(f"{name} is {_far(size)} (root mean square)")
        elif channel.std() < _FLAT:
            warnings.append(f"{name} has next to no contrast")
    return warnings


def _channel(run: FinishedRun, place: int, channels: int) -> str:
    leads: tuple[str, ...] = getattr(run.study.data, "leads", ())
    if place < len(leads):
        return f"lead {leads[place]}"
    if channels == 1:
        return "the image" if run.study.study.modality == "image" else "the signal"
    return f"channel {place + 1}"
