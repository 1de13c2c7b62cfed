"""A search as a person reads it: a table, a plot, and what it would have cost."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rich.table import Table

from wardround_shared.commands import add_row, table
from wardround_simulations.metric_names import METRICS

Said = dict[str, Any]

_NOTHING = "-"
# Points of the table on a terminal; the file has all.
_SHOWN = 10
_MOST_PLOTS, _COLUMNS = 9, 3
# So many different numbers stand side by side.
_FEW = 4


def show(result: Said) -> Table:
    """The best settings, the ones that got furthest in front."""
    made = table(f"{_name(result)} in {result['folds']} folds", *_HEAD)
    for row in list(_rows(result))[:_SHOWN]:
        add_row(made, *row)
    return made


def sentences(result: Said) -> list[str]:
    """What has to be said beside the table."""
    patients = f"searched on {result['patients']} training patients"
    said = [f"{patients}; no validation patient was looked at", _against_own(result)]
    failed = [one for one in result["trials"] if one["failed"]]
    if failed:
        said.append(
            f"{len(failed)} of {len(result['trials'])} settings could not be trained; the first: "
            f"{failed[0]['failed']}"
        )
    return [*said, _cost(result)]


def tuning_text(result: Said) -> str:
    """`tuning.md`."""
    lines = [
        f"# {result['study']}: a search for better settings",
        "",
        f"Study {result['study_id']}, seed {result['seed']}. Made by:",
        "",
        f"    {result['command']}",
        "",
        *(f"- {sentence}" for sentence in sentences(result)),
        "",
        f"{_name(result)}, mean over {result['folds']} folds. The best is `best.toml`:",
        "",
        f"    study {result['best_study_id']}",
        "",
        "| " + " | ".join(_HEAD) + " |",
        "|" + " --- |" * len(_HEAD),
        *("| " + " | ".join(row) + " |" for row in _rows(result)),
        "",
        "![scores](tuning.png)",
    ]
    return "\n".join(lines) + "\n"


def plot(result: Said, file: Path) -> None:
    """Scores in the first rung, where all settings are, against each key that was varied."""
    keys = sorted({key for one in result["trials"] for key in one["settings"]})[:_MOST_PLOTS]
    columns = min(_COLUMNS, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(3.6 * columns, 3.0 * rows), layout="constrained")
    places = [*figure.subplots(rows, columns, squeeze=False).flat]
    for axes, key in zip(places, keys, strict=False):
        _plot_key(axes, result, key)
    for axes in places[len(keys) :]:
        axes.set_axis_off()
    figure.savefig(file, dpi=110)


_HEAD = ("setting", "rounds tried", "score", "by fold", "what")


def _rows(result: Said) -> Iterator[list[str]]:
    last = len(result["rungs"]) - 1
    for one in sorted(result["trials"], key=_order):
        rung, mean = str(one["rung"]), one["means"][str(one["rung"])]
        divisor = result["rungs"][one["rung"]]["divisor"]
        best = ", best" if one["trial"] == result["best"] else ""
        folds = [_NOTHING if s is None else f"{s:.3f}" for s in one["scores"][rung]]
        yield [
            f"{one['trial']}{best}",
            "all" if one["rung"] == last else f"1/{divisor}",
            _NOTHING if mean is None else f"{mean:.3f}",
            " ".join(folds),
            _settings(one["settings"]),
        ]


def _order(trial: Said) -> tuple[int, float, int]:
    mean = trial["means"][str(trial["rung"])]
    return -trial["rung"], float("inf") if mean is None else -mean, trial["trial"]


def _settings(settings: Said) -> str:
    if not settings:
        return "the study's own"
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())


def _name(result: Said) -> str:
    return METRICS[result["metric"]]


def _against_own(result: Said) -> str:
    over = result["over_own"]
    if result["best"] == 0:
        return "nothing was better than the study's own settings"
    if over is None:
        return "the study's own settings have no score to compare the best with"
    sure = "in all of them" if over["better"] == over["folds"] else "which chance can do"
    return (
        f"the best is {over['mean']:+.3f} over the study's own settings, better in "
        f"{over['better']} of {over['folds']} folds, {sure}; the best of many looks better than "
        "it is, so measure it on other patients"
    )


def _cost(result: Said) -> str:
    cost = result["privacy"]
    if cost is None:
        return "privacy: NONE (mechanism = none): nothing of this is private, nothing is charged"
    trainings = f"a patient's {cost['trainings']} trainings at epsilon {cost['each']:g}"
    failed = any(one["failed"] for one in result["trials"])
    bound = "have no bound" if cost["epsilon"] is None else f"cost epsilon {cost['epsilon']:.1f}"
    return (
        f"privacy: in this simulation nothing was charged; on patients' data {trainings} would "
        f"together {bound} at delta {cost['delta']:g} ({cost['bound']}), besides the scores, "
        "which no noise covers, the final training"
        f"{' and the trainings that failed' if failed else ''}: tune on public data"
    )


def _plot_key(axes: Axes, result: Said, key: str) -> None:
    trials = [one for one in result["trials"] if key in one["settings"]]
    values = [one["settings"][key] for one in trials]
    scores = [one["means"]["0"] for one in trials]
    heights = [float("nan") if score is None else score for score in scores]
    places = values
    named = _choices(values)
    if named:
        axes.set_xticks(range(len(named)), named)
        places = [named.index(json.dumps(value)) for value in values]
    elif min(values) > 0 and max(values) >= 8 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.scatter(places, heights, color="#2a6f97")
    for place, one, height in zip(places, trials, heights, strict=True):
        if one["trial"] == result["best"]:
            axes.scatter([place], [height], color="#c1121f", label="best", zorder=3)
            axes.legend()
    axes.set_xlabel(key)
    axes.set_ylabel(f"{_name(result)}, first rung")


def _choices(values: list[Any]) -> list[str]:
    """The values side by side, if they are few or no numbers; otherwise none."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    named = {json.dumps(value): value for value in values}
    if not numbers:
        return sorted(named)
    return sorted(named, key=named.__getitem__) if len(named) <= _FEW else []
