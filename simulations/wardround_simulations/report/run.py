"""Reads a run folder for the report. What is not there is missing by name, never in silence."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import RunFolderError
from wardround_shared.tasks import Classification, MultiLabel
from wardround_simulations.generating import GRID

Counts = NDArray[np.float64]
Metrics = Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """What one site brought: numbers only.

    Attributes:
        classes: examples of each class.
        set_aside: examples left out, for each reason.
    """

    patients: int
    train: int
    validation: int
    classes: Mapping[str, int]
    set_aside: Mapping[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Privacy that one site spent in this run; epsilon is PRV unless RDP contradicts it."""

    epsilon: float
    prv: float | None
    rdp: float | None
    noise_multiplier: float | None
    sample_rate: float | None
    steps: float | None


@dataclass(frozen=True, kw_only=True)
class Book:
    """A site's ledger after the run: its population's cap, what is spent of it, what is left."""

    cap: float
    delta: float
    spent: float
    left: float


@dataclass(frozen=True, kw_only=True)
class Disclosure:
    """One thing that sites gave away and epsilon does not cover."""

    what: str
    purpose: str
    form: str


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """What was promised and what was spent."""

    mechanism: str
    unit: str | None
    delta: float | None
    planned_epsilon: float | None
    spent: Mapping[str, Spent]
    ledger: Mapping[str, Book]
    disclosures: tuple[Disclosure, ...]
    injected_noise: bool

    @property
    def private(self) -> bool:
        """Whether the model is differentially private."""
        return self.mechanism != "none" and not self.injected_noise


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round, with the metrics of the model that it started from."""

    number: int
    metrics: Metrics
    seconds: float | None
    final: bool


@dataclass(frozen=True, kw_only=True)
class RosterLine:
    """Who took part in a round; `dropped` pairs a site with the reason."""

    number: int
    invited: tuple[str, ...]
    trained: tuple[str, ...]
    aggregated: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class SiteRound:
    """One site's own measure of the model that a round started from."""

    site: str
    number: int
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that the report shows.

    Attributes:
        kind: of task: classification, survival and so on.
        counts: summed counts [L] of the final model; none where it was not evaluated.
        site_counts: the same of each site.
        made_images: a PNG of images that the final model makes; empty where it makes none.
        missing: parts that the folder lacks, in words.
    """

    study: str
    study_id: str
    study_text: str
    model: str
    name: str
    status: str
    reason: str
    started: str
    sites: int
    rounds: int
    seed: int | None
    kind: str
    classes: tuple[str, ...]
    metrics: Metrics
    per_site: Mapping[str, Metrics]
    counts: Counts | None
    site_counts: Mapping[str, Counts]
    cohorts: Mapping[str, Cohort]
    notes: tuple[str, ...]
    privacy: Privacy
    secure_aggregation: bool
    seconds: Mapping[str, float]
    peak_rss_mb: float | None
    history: tuple[Round, ...]
    roster: tuple[RosterLine, ...]
    site_history: tuple[SiteRound, ...]
    made_images: bytes = b""
    missing: tuple[str, ...] = field(default=())


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        RunFolderError: there is no summary, or a file is not as this version writes it.
    """
    missing: list[str] = []
    summary = _summary(folder / "summary.json")
    try:
        history = tuple(_round(line) for line in _lines(folder / "rounds.jsonl", missing))
        roster = tuple(_roster_line(line) for line in _lines(folder / "roster.jsonl", missing))
        site_history = _site_history(folder / "sites", missing)
        return _run(
            summary,
            study_text=_study_text(folder, missing),
            history=history,
            roster=roster,
            site_history=site_history,
            made_images=_picture(folder),
            missing=missing,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"{folder}: a file of this run is not as this version of wardround writes it "
            f"({type(error).__name__}: {error}); run the study again."
        ) from error


def _run(
    summary: Mapping[str, Any],
    *,
    study_text: str,
    history: tuple[Round, ...],
    roster: tuple[RosterLine, ...],
    site_history: tuple[SiteRound, ...],
    made_images: bytes,
    missing: list[str],
) -> Run:
    classes = tuple(str(name) for name in summary["classes"])
    counts = summary.get("counts") or {}
    kind = str(summary.get("task", "-classification")).partition("-")[2]
    length = _counts_length(kind, classes)
    overall = _counts(counts.get("overall"), length)
    per_site = {site: _counts(c, length) for site, c in counts.get("per_site", {}).items()}
    if overall is None:
        missing.append("Counts of the final model: no curves and no confusion matrix.")
    if not summary.get("cohorts"):
        missing.append("Cohorts of the sites.")
    if not summary.get("per_site"):
        missing.append("Metrics of single sites.")
    return Run(
        study=str(summary["study"]),
        study_id=str(summary["study_id"]),
        study_text=study_text,
        model=_model_name(study_text),
        name=Path(str(summary.get("run", ""))).name,
        status=str(summary["status"]),
        reason=str(summary.get("reason") or ""),
        started=str(summary.get("started") or ""),
        sites=int(summary["sites"]),
        rounds=int(summary["rounds"]),
        seed=summary.get("seed"),
        kind=kind,
        classes=classes,
        metrics=_metrics(summary.get("metrics")),
        per_site={site: _metrics(m) for site, m in (summary.get("per_site") or {}).items()},
        counts=overall,
        site_counts={site: c for site, c in per_site.items() if c is not None},
        cohorts={site: _cohort(c) for site, c in (summary.get("cohorts") or {}).items()},
        notes=_texts(summary.get("notes")),
        privacy=_privacy(summary["privacy"], summary.get("noise")),
        # A run that does not say that it was secure was not.
        secure_aggregation=summary.get("secure_aggregation") is True,
        seconds={name: float(s) for name, s in (summary.get("seconds") or {}).items()},
        peak_rss_mb=_number(summary.get("peak_rss_mb")),
        history=history,
        roster=roster,
        site_history=site_history,
        made_images=made_images,
        missing=tuple(missing),
    )


def _summary(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{path.parent}: there is no {path.name}, so this is no run folder or the run was "
            "killed; name the folder of a run that ended."
        ) from error
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}); run the study again.") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path}: is not the summary of a run; run the study again.")
    return content


def _lines(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    """JSON lines; a last line cut short by a killed run is left out and named."""
    if not path.is_file():
        missing.append(f"{path.name}: no round was closed.")
        return []
    texts = path.read_text(encoding="utf-8").splitlines()
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(json.loads(text))
        except ValueError:
            missing.append(f"{path.parent.name}/{path.name}: line {number} is cut short.")
    return lines


def _picture(folder: Path) -> bytes:
    """What the model makes; nothing for any other task, or before the end of a run."""
    try:
        return (folder / GRID).read_bytes()
    except FileNotFoundError:
        return b""


def _study_text(folder: Path, missing: list[str]) -> str:
    try:
        return (folder / "study.toml").read_text(encoding="utf-8")
    except FileNotFoundError:
        missing.append("study.toml: the study as run.")
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{folder / 'study.toml'}: cannot be read ({error}).") from error


def _model_name(study_text: str) -> str:
    import tomllib  # noqa: PLC0415 - only here, and only for one word of the headline

    try:
        return str(tomllib.loads(study_text)["model"]["name"])
    except (tomllib.TOMLDecodeError, KeyError, TypeError):
        return ""


def _site_history(folder: Path, missing: list[str]) -> tuple[SiteRound, ...]:
    journals = sorted(folder.glob("*/journal.jsonl"))
    if not journals:
        missing.append("Journals of the sites: only a simulation has them on one machine.")
    return tuple(
        SiteRound(
            site=str(line["site"]), number=int(line["round"]), metrics=_metrics(line["metrics"])
        )
        for journal in journals
        for line in _lines(journal, missing)
    )


def _round(line: Mapping[str, Any]) -> Round:
    return Round(
        number=int(line["round"]),
        metrics=_metrics(line.get("metrics")),
        seconds=_number(line.get("seconds")),
        final=bool(line.get("final", False)),
    )


def _roster_line(line: Mapping[str, Any]) -> RosterLine:
    return RosterLine(
        number=int(line["round"]),
        invited=_texts(line["invited"]),
        trained=_texts(line["trained"]),
        aggregated=_texts(line["aggregated"]),
        dropped=tuple((str(d["site"]), str(d["why"])) for d in line["dropped"]),
    )


def _cohort(content: Mapping[str, Any]) -> Cohort:
    return Cohort(
        patients=int(content["patients"]),
        train=int(content["train"]),
        validation=int(content["validation"]),
        classes={str(name): int(n) for name, n in content["classes"].items()},
        set_aside={str(why): int(n) for why, n in (content.get("set_aside") or {}).items()},
        notes=_texts(content.get("notes")),
    )


def _privacy(content: Mapping[str, Any], noise: object) -> Privacy:
    spent = {site: _spent(values) for site, values in (content.get("spent") or {}).items()}
    for site, epsilon in (content.get("epsilon") or {}).items():
        spent.setdefault(site, _spent({"epsilon": epsilon}))
    return Privacy(
        mechanism=str(content["mechanism"]),
        unit=content.get("unit"),
        delta=_number(content.get("delta")),
        planned_epsilon=_number(content.get("planned_epsilon")),
        spent=spent,
        ledger={
            site: Book(**{key: float(book[key]) for key in ("cap", "delta", "spent", "left")})
            for site, book in (content.get("ledger") or {}).items()
        },
        disclosures=tuple(
            Disclosure(**{key: str(told[key]) for key in ("what", "purpose", "form")})
            for told in content.get("disclosures") or ()
        ),
        # Fail closed: noise of unknown origin is not taken for real noise.
        injected_noise=noise != "system",
    )


def _spent(values: Mapping[str, Any]) -> Spent:
    return Spent(
        epsilon=float(values["epsilon"]),
        prv=_number(values.get("prv")),
        rdp=_number(values.get("rdp")),
        noise_multiplier=_number(values.get("noise_multiplier")),
        sample_rate=_number(values.get("sample_rate")),
        steps=_number(values.get("steps")),
    )


def _counts_length(kind: str, classes: tuple[str, ...]) -> int | None:
    """Length of counts that are drawn; those of other tasks are taken as they are."""
    match kind:
        case "classification":
            return Classification(classes).counts_length
        case "multilabel-classification":
            return MultiLabel(classes).counts_length
    return None


def _counts(values: Sequence[float] | None, length: int | None) -> Counts | None:
    if not values:
        return None
    counts = np.asarray(values, dtype=np.float64)
    if length is not None and counts.shape != (length,):
        raise ValueError(f"{counts.size} counts instead of {length}")
    return counts


def _metrics(values: Mapping[str, Any] | None) -> Metrics:
    return {str(name): _number(value) for name, value in (values or {}).items()}


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _texts(values: Sequence[Any] | None) -> tuple[str, ...]:
    return tuple(str(value) for value in values or ())
