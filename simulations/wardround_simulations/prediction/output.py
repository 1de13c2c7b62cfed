"""What `wardround predict` prints and writes."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wardround_server import durable
from wardround_shared.commands import add_row, console, table
from wardround_shared.errors import RunFolderError
from wardround_shared.terminal import say
from wardround_simulations.prediction.answers import Answer, Cell
from wardround_simulations.prediction.prediction import Failure

_MOST_SHOWN = 50
_MOST_COLUMNS = 12


@dataclass(frozen=True, kw_only=True)
class Row:
    """One input's answer.

    Attributes:
        input: its name.
        warnings: how it is unlike the training data.
        files: that were written beside it, by kind.
    """

    input: str
    answer: Answer
    warnings: tuple[str, ...]
    files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Everything that one call of `predict` has to say.

    Attributes:
        about: of the model, by name: run, study, card, calibration, ...
        columns: of a table of the answers, in order.
        not_private: what to say beside every row of a model that protects nobody; else empty.
        notes: for all inputs together.
    """

    about: dict[str, Any]
    columns: tuple[str, ...]
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
                "input": row.input,
                **row.answer.content(),
                **{kind: [str(file) for file in files] for kind, files in row.files.items()},
                "warnings": list(row.warnings),
                "not_private": answers.not_private or None,
            }
            for row in answers.rows
        ],
        "failed": [{"input": one.input, "why": one.why} for one in answers.failures],
    }


def show(answers: Answers) -> None:
    """For a person."""
    lines = [(row, line) for row in answers.rows for line in row.answer.lines()]
    if lines:
        names = [n for n in answers.columns if any(line.get(n) is not None for _, line in lines)]
        left_out, names = names[_MOST_COLUMNS:], names[:_MOST_COLUMNS]
        shown = table("Predictions", "input", *names, "warning")
        for row, line in lines[:_MOST_SHOWN]:
            cells = (_cell(line.get(name), "{:.3f}") for name in names)
            add_row(shown, row.input, *cells, "; ".join(row.warnings))
        console().print(shown)
        if (more := len(lines) - _MOST_SHOWN) > 0:
            say(f"and {more} further rows: --out or --json gives all")
        if left_out:
            say(f"and {len(left_out)} further columns: --out or --json gives all")
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
    """The rows of all answers; the file is there whole, or not at all.

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
    names = [name for name in answers.columns if name != "answer"]
    lines = [["input", "answer", *names, "warning", "note"]]
    for row in answers.rows:
        for line in row.answer.lines():
            cells = (_cell(line.get(name), "{!r}") for name in ("answer", *names))
            lines.append([row.input, *cells, "; ".join(row.warnings), answers.not_private])
    return lines


def _cell(value: Cell, form: str) -> str:
    """A figure in this form; counts and texts as they are."""
    if value is None:
        return ""
    return form.format(value) if isinstance(value, float) else str(value)
