"""The pictures: an image with what speaks for the answer laid over it, a trace with it below.

C = channels, H, W = pixels, T = samples in time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_simulations.explaining.attribution import Attribution
from wardround_simulations.explaining.permutation import Importance

_FOR, _AGAINST = "for", "against"


def draw_image(pixels: NDArray[Any], found: Attribution, title: str, file: Path) -> None:
    """Beside one another: the image [C, H, W], Grad-CAM over it, integrated gradients over it."""
    figure, axes = _figure(1, 3, width=10.5, height=3.9)
    grey = pixels.mean(axis=0)
    for place in axes[0]:
        place.imshow(grey, cmap="gray")
        place.set_xticks([])
        place.set_yticks([])
    axes[0][0].set_title("what the model was given")
    axes[0][1].set_title("Grad-CAM")
    if found.heat is not None:
        largest = max(float(found.heat.max()), 1e-12)
        heat = found.heat / largest
        axes[0][1].imshow(heat, cmap="inferno", alpha=0.55 * heat, vmin=0.0, vmax=1.0)
    gradients = found.gradients.sum(axis=0)
    limit = _limit(gradients)
    shown = axes[0][2].imshow(
        gradients,
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        alpha=np.clip(np.abs(gradients) / limit, 0.0, 1.0),
    )
    axes[0][2].set_title("integrated gradients")
    bar = figure.colorbar(shown, ax=axes[0][2], ticks=[-limit, limit], fraction=0.046)
    bar.ax.set_yticklabels([_AGAINST, _FOR])
    _save(figure, title, file)


def draw_signal(
    trace: NDArray[Any], found: Attribution, names: Sequence[str], title: str, file: Path
) -> None:
    """One row a channel: the trace [C, T], and below it in colour what speaks for the answer."""
    channels = len(trace)
    figure, axes = _figure(channels, 1, width=10.0, height=1.0 + 1.1 * channels)
    limit = _limit(found.gradients)
    time = np.arange(trace.shape[1])
    shown = None
    for place, channel, gradients, name in zip(
        axes[:, 0], trace, found.gradients, names, strict=True
    ):
        low, high = float(channel.min()), float(channel.max())
        foot = low - 0.25 * max(high - low, 1e-6)
        shown = place.imshow(
            gradients[None],
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
            aspect="auto",
            extent=(-0.5, len(time) - 0.5, foot, low),
            interpolation="nearest",
        )
        place.plot(time, channel, color="black", linewidth=0.8)
        place.set_ylim(foot, high + 0.05 * max(high - low, 1e-6))
        place.set_ylabel(name, rotation=0, ha="right", va="center")
        place.set_yticks([])
        place.set_xticks([])
    axes[-1, 0].set_xlabel("time")
    assert shown is not None
    bar = figure.colorbar(shown, ax=list(axes[:, 0]), ticks=[-limit, limit], fraction=0.03)
    bar.ax.set_yticklabels([_AGAINST, _FOR])
    _save(figure, title, file)


def draw_importances(found: Sequence[Importance], metric: str, title: str, file: Path) -> None:
    """Bars: how much the metric falls when a column is shuffled, with its range over repeats."""
    figure, axes = _figure(1, 1, width=8.0, height=1.2 + 0.28 * len(found))
    place = axes[0][0]
    rows = np.arange(len(found))
    means = np.array([one.mean for one in found])
    ends = np.array([[one.mean - one.least, one.most - one.mean] for one in found]).T
    place.barh(rows, means, xerr=ends, color="#4477aa", ecolor="#222222", capsize=2)
    place.set_yticks(rows, [one.column for one in found])
    place.invert_yaxis()
    place.axvline(0.0, color="black", linewidth=0.8)
    place.set_xlabel(f"fall in {metric} when the column is shuffled")
    _save(figure, title, file)


def _limit(values: NDArray[Any]) -> float:
    """A colour scale that a single value does not set."""
    return max(float(np.percentile(np.abs(values), 99.0)), 1e-12)


def _figure(rows: int, columns: int, *, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Any, title: str, file: Path) -> None:
    figure.suptitle(title, fontsize=10)
    figure.savefig(file, dpi=110, format="png")
