"""The card as a whole."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround_server.card import sections
from wardround_server.run_folder import MODEL, RunFolder
from wardround_shared import __version__
from wardround_shared.study import Study

CARD = "model-card.md"


def write_card(folder: RunFolder, study: Study, summary: Mapping[str, Any]) -> None:
    """Write the card of a finished run into its folder.

    Raises:
        RunFolderError: it cannot be written.
    """
    folder.write_text(CARD, card_text(folder.path, study, summary))


def card_text(folder: Path, study: Study, summary: Mapping[str, Any]) -> str:
    """The card, Markdown.

    Args:
        folder: of the run.
        study: as run.
        summary: content of its `summary.json`.
    """
    one = study.study
    run = Path(str(summary.get("run", folder.name))).name
    classes = f", classes {', '.join(one.classes)}" if one.classes else ""
    rounds = f"{summary.get('rounds', '?')} rounds at {summary.get('sites', '?')} sites"
    parts = {
        "Intended use": sections.use(study),
        "Data": sections.data(summary),
        "Metrics": sections.metrics(study, summary),
        "Calibration": sections.calibration(study, summary),
        "Privacy": sections.privacy(study, summary),
        "Limits": sections.limits(summary),
        "How to check": _check(study, run),
    }
    lines = [
        f"# Model card: {one.name}",
        "",
        (
            f"Model `{study.model.name}` for {one.task}{classes}; {rounds}. Run {run}, study "
            f"`{study.study_id}`, wardround {__version__}. SHA-256 of `{MODEL}`:"
        ),
        f"`{_sha256(folder / MODEL)}`.",
    ]
    for title, content in parts.items():
        lines += ["", f"## {title}", "", *content]
    return "\n".join(lines) + "\n"


def _check(study: Study, run: str) -> list[str]:
    lines = [
        f"- `sha256sum {MODEL}` gives the number above.",
        f"- `wardround evaluate {run} --data FOLDER` measures it on other patients.",
        f"- `wardround report {run}` draws the curves behind these figures.",
    ]
    if study.privacy.private:
        lines += [
            f"- `wardround audit {run} --data FOLDER` looks for canaries in what a site reveals.",
            "- `wardround-site ledger show` and `verify` at each site say what was spent.",
        ]
    return lines


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
