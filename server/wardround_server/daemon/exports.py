"""What a finished run gives to others: its files in one folder, with a page about it."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wardround_server.card import CARD, card_text
from wardround_server.daemon.runs import Runs
from wardround_server.run_folder import MODEL, ROSTER, ROUNDS, STUDY, SUMMARY, read_model
from wardround_shared.errors import RunFolderError
from wardround_shared.study import disclosures

REPORT = "report.md"
_FILES = (STUDY, SUMMARY, ROUNDS, ROSTER, MODEL)


def export_run(runs: Path, name: str, out: Path) -> str:
    """Copy a finished run to a new folder.

    Returns:
        How many sites of how many took part in how many rounds.

    Raises:
        RunFolderError: the run has not finished, a file is missing, or the folder is there.
    """
    known = Runs(runs)
    record, folder = known.read(name), runs / name
    if record.state != "finished":
        raise RunFolderError(f"The run {name} is {record.state}; it can be exported once finished.")
    read_model(folder)
    summary, lines, card = _read(known, name, folder)
    try:
        _require_new(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        with _beside(out) as unfinished:
            for file in _FILES:
                shutil.copyfile(folder / file, unfinished / file)
            (unfinished / REPORT).write_text("\n".join(lines) + "\n", encoding="utf-8")
            (unfinished / CARD).write_text(card, encoding="utf-8")
            _require_new(out)
            unfinished.rename(out)
    except OSError as error:
        raise RunFolderError(f"{out}: cannot be written ({error.strerror}).") from error
    sentence: str = summary["participation"]["sentence"]
    return sentence


def _require_new(out: Path) -> None:
    if os.path.lexists(out):
        raise RunFolderError(f"{out}: this folder exists already; name another.")


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A new folder that is gone afterwards, unless it got another name."""
    unfinished = out.with_name(f".{out.name}.{secrets.token_hex(4)}.unfinished")
    unfinished.mkdir()
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _read(runs: Runs, name: str, folder: Path) -> tuple[dict[str, Any], list[str], str]:
    """Summary, report and model card: a damaged run is refused before anything is written."""
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if missing:
        raise RunFolderError(f"{folder}: {', '.join(missing)} is missing, so it is not exported.")
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        card = card_text(folder, runs.study(name), summary)
        return summary, _report(runs, name, summary), card
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{folder / SUMMARY}: the summary is damaged ({error}).") from error


def _report(runs: Runs, name: str, summary: dict[str, Any]) -> list[str]:
    study = runs.study(name)
    part, metrics = summary["participation"], summary["metrics"]
    private = study.privacy
    promise = (
        f"{private.mechanism}, epsilon {private.epsilon:g} at delta {private.delta:g} per "
        f"{private.unit}, at each site by its own ledger"
        if private.private
        else "none: the study says privacy.mechanism = none"
    )
    lines = [
        str(part["sentence"]),
        "",
        f"# {study.study.name}, run {name}",
        "",
        f"Study {study.study_id}; software {summary['software']}.",
        "",
        f"Privacy: {promise}.",
        f"Secure aggregation: {'yes' if study.aggregation.secure else 'no'}.",
        *_start(summary.get("initial_weights")),
        "",
        "## Metrics of the final model on all sites' validation patients",
        "",
        "| metric | value |",
        "| --- | --- |",
        *(f"| {key} | {_figure(value)} |" for key, value in metrics.items()),
        "",
        "## Sites",
        "",
        "| site | rounds | why not in others |",
        "| --- | --- | --- |",
    ]
    for site, one in part["per_site"].items():
        why = "; ".join(f"{reason} ({count})" for reason, count in one["why_not"].items())
        lines.append(f"| {site} | {one['rounds']} | {why} |")
    lines += ["", "## What sites gave away that no epsilon covers", ""]
    lines += [f"- {one.what}: {one.form} ({one.purpose})" for one in disclosures(study)]
    return lines


def _start(weights: dict[str, Any] | None) -> list[str]:
    """What the run has started from, if not from chance: epsilon says nothing of that."""
    if weights is None:
        return []
    line = (
        f"Started from {weights['taken']} arrays of {weights['file']} (SHA-256 "
        f"{weights['sha256']}); what those were trained on, this run protects nobody of."
    )
    return [line]


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
