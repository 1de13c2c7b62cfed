"""What `wardround predict` prints and writes."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround_server import durable
from wardround_shared.commands import add_row, console, table
from wardround_shared.errors import RunFolderError
from wardround_shared.terminal import say
from wardround_simulations.prediction.answers import Answer
from wardround_simulations.prediction.prediction import Failure, Prediction

Row = tuple[Prediction, Answer]

_CALIBRATED = ", calibrated"
_MOST_SHOWN = 50


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Everything that one call of `predict` has to say.

    Attributes:
        about: of the model, by name: run, study, card, calibration, ...
        not_private: what to say beside every row of a model that protects nobody; else empty.
        notes: for all inputs together.
    """

    about: dict[str, Any]
    rows: Sequence[Row]
    failures: Sequence[Failure]
    not_private: str
    notes: Sequence[str]


def as_json(answers: Answers) -> dict[str, Any]:
    """For `--json`."""
    return {
        **answers.about,
        "notes": list(answers.notes),
        "predictions": [
            {
                "input": prediction.input,
                "answer": answer.answer,
                "model": dict(answer.shown),
                "calibrated": None if answer.calibrated is None else dict(answer.calibrated),
                "warnings": list(prediction.warnings),
                "not_private": answers.not_private or None,
            }
            for prediction, answer in answers.rows
        ],
        "failed": [{"input": one.input, "why": one.why} for one in answers.failures],
    }


def show(answers: Answers) -> None:
    """For a person."""
    if answers.rows:
        names = [*answers.rows[0][1].shown]
        some = any(answer.calibrated for _, answer in answers.rows)
        further = [f"{name}{_CALIBRATED}" for name in names] if some else []
        shown = table("Predictions", "input", *names, *further, "warning")
        for prediction, answer in answers.rows[:_MOST_SHOWN]:
            add_row(
                shown,
                prediction.input,
                *_figures(answer.shown, names, "{:.3f}"),
                *(_figures(answer.calibrated or {}, names, "{:.3f}") if some else []),
                "; ".join(prediction.warnings),
            )
        console().print(shown)
        if (more := len(answers.rows) - _MOST_SHOWN) > 0:
            say(f"and {more} further inputs: --out or --json gives all")
    for note in answers.notes:
        say(note)


def complaints(failures: Sequence[Failure]) -> list[str]:
    """A sentence for each file and reason, not for each of a table's thousand rows."""
    alike: dict[tuple[Path, str], list[Failure]] = {}
    for one in failures:
        alike.setdefault((one.path, one.why), []).append(one)
    return [
        f"{ones[0].input}: {why}" + (f" (and {len(ones) - 1} more like it)" if ones[1:] else "")
        for (_, why), ones in alike.items()
    ]


def write_csv(answers: Answers, out: Path) -> None:
    """One row a prediction; the file is there whole, or not at all.

    Raises:
        RunFolderError: it cannot be written.
    """

    def write(file: Path) -> None:
        with file.open("w", newline="", encoding="utf-8") as opened:
            csv.writer(opened).writerows(_lines(answers))

    try:
        durable.replace(out, write, durable=False)
    except OSError as error:
        raise RunFolderError(f"{out}: cannot be written ({error.strerror}).") from error


def _lines(answers: Answers) -> list[list[str]]:
    names = [*answers.rows[0][1].shown] if answers.rows else []
    lines = [
        ["input", "answer", *names, *(f"{name}{_CALIBRATED}" for name in names), "warning", "note"]
    ]
    for prediction, answer in answers.rows:
        lines.append(
            [
                prediction.input,
                answer.answer or "",
                *_figures(answer.shown, names, "{!r}"),
                *_figures(answer.calibrated or {}, names, "{!r}"),
                "; ".join(prediction.warnings),
                answers.not_private,
            ]
        )
    return lines


def _figures(values: Any, names: Sequence[str], form: str) -> list[str]:
    return [form.format(values[name]) if name in values else "" for name in names]
