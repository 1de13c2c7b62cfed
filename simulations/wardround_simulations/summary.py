"""What a simulated run says of itself: `summary.json`.

Only a simulation may look at all sites: it reads their journals and ledgers afterwards.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wardround_client.cohort import Cohort, CohortSet
from wardround_client.journal import Journal, peak_rss_mb
from wardround_client.ledger import Cap
from wardround_server.coordinator import Outcome, as_json
from wardround_server.initial_weights import initial_said
from wardround_server.participation import participation_in
from wardround_server.run_folder import ROUNDS
from wardround_shared import json_lines
from wardround_shared.privacy.accounting import SampledGaussian, epsilon_spent
from wardround_shared.study import Study, promise
from wardround_shared.tasks import task_of
from wardround_simulations.ledgers import Ledgers

Status = Literal["running", "complete", "interrupted", "failed"]
Journals = Mapping[str, Sequence[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How a run was started.

    Attributes:
        started: ISO 8601, UTC.
        processes: that serve sites at the same time.
    """

    started: str
    seed: int
    backend: str
    device: str
    processes: int
    injected_noise: bool


def summarise(
    *,
    study: Study,
    cohorts: CohortSet,
    folder: Path,
    journals: Mapping[str, Path],
    ledgers: Ledgers | None,
    outcome: Outcome | None,
    status: Status,
    reason: str,
    conduct: Conduct,
    seconds: float,
) -> dict[str, Any]:
    """The content of `summary.json`.

    Args:
        study: as run.
        cohorts: of all sites.
        folder: of the run.
        journals: folder of each site's journal.
        ledgers: of the sites of a private study.
        outcome: of a run that has ended well.
        status: how far it has got.
        reason: why it went no further.
        conduct: how it was started.
        seconds: since it was started.
    """
    lines = {site: Journal.read(place) for site, place in journals.items()}
    took_part = participation_in(
        folder,
        sites=[cohort.site for cohort in cohorts.cohorts],
        planned=study.training.rounds,
    )
    summary = {
        "participation": took_part.as_json(),
        "study": study.study.name,
        "study_id": study.study_id,
        "run": str(folder),
        "status": status,
        "reason": reason,
        "started": conduct.started,
        "sites": len(cohorts.cohorts),
        "rounds": 0,
        "seed": conduct.seed,
        "initial_weights": initial_said(folder),
        "task": study.study.task,
        "classes": list(study.study.classes),
        "metrics": {},
        "per_site": {site: last["metrics"] for site, last in _finals(lines).items()},
        "personal": _personal(study, lines),
        "privacy": _privacy(study, ledgers, folder.name),
        "secure_aggregation": study.aggregation.secure,
        "dropped": [],
        "backend": conduct.backend,
        "device": conduct.device,
        "noise": "injected for a test" if conduct.injected_noise else "system",
        "seconds": _seconds(lines, seconds, conduct.processes),
        "peak_rss_mb": _peak_memory(lines),
        "cohorts_key": cohorts.folder.name,
        "cohorts": {cohort.site: _about(study, cohorts, cohort) for cohort in cohorts.cohorts},
        "set_aside": {site: dict(why) for site, why in cohorts.set_aside.items()},
        "notes": all_notes(cohorts),
        "counts": {
            "overall": [] if outcome is None else outcome.counts.tolist(),
            "per_site": {site: last["final_counts"] for site, last in _finals(lines).items()},
        },
    }
    if outcome is not None:
        return summary | as_json(outcome)
    closed = json_lines.read(folder / ROUNDS)
    return summary | {"rounds": sum(1 for line in closed if not line.get("final"))}


def all_notes(cohorts: CohortSet) -> list[str]:
    """The notes of all cohorts, and what was set aside without a cohort that could say so."""
    with_cohort = {cohort.site for cohort in cohorts.cohorts}
    return list(cohorts.notes) + [
        f"{number} set aside {site}: {why}"
        for site, reasons in cohorts.set_aside.items()
        if site not in with_cohort
        for why, number in reasons.items()
    ]


def _about(study: Study, cohorts: CohortSet, cohort: Cohort) -> dict[str, Any]:
    return {
        "patients": len(np.unique(cohort.patients)),
        "train": len(cohort.train),
        "train_patients": len(np.unique(cohort.patients[cohort.train])),
        "validation": len(cohort.validation),
        "validation_patients": len(np.unique(cohort.patients[cohort.validation])),
        "classes": task_of(study).tally(cohort.targets),
        "set_aside": dict(cohorts.set_aside.get(cohort.site, {})),
        "notes": list(cohort.notes),
    }


def _personal(study: Study, lines: Journals) -> dict[str, Any]:
    """What each site has for itself, and its validation patients under the model without it.

    `shared` is the model as the run folder has it, and as a new hospital would get it; `own` is
    what each site has kept.
    """
    settings, finals = study.personal, _finals(lines)
    if not settings.any:
        return {}
    return {
        "layers": settings.layers,
        "ditto": settings.ditto,
        "fine_tune_epochs": settings.fine_tune_epochs,
        "shared": _measured(study, {s: done["shared_counts"] for s, done in finals.items()}),
        "own": _measured(study, {s: done["own_counts"] for s, done in finals.items()}),
    }


def _measured(study: Study, counts: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    task = task_of(study)
    sums = {site: np.array(of_site) for site, of_site in counts.items()}
    return {
        "metrics": task.metrics(np.sum(list(sums.values()), axis=0)) if sums else {},
        "per_site": {site: task.metrics(one) if one[0] else {} for site, one in sums.items()},
    }


# --- privacy ---------------------------------------------------------------------------------


def _privacy(study: Study, ledgers: Ledgers | None, run: str) -> dict[str, Any]:
    privacy = study.privacy
    if not privacy.private or ledgers is None:
        return promise(study) | {"epsilon": {}}
    spent = {}
    books = {}
    for site in ledgers.homes:
        ledger = ledgers.open(site)
        mine = [
            entry.cost
            for entry in ledger.entries()
            if (entry.purpose.run, entry.purpose.study_id) == (run, study.study_id)
        ]
        if mine:
            spent[site] = _spent(mine, privacy.delta)
        cap = ledgers.policy.cap_of(ledgers.data_set)
        population = ledgers.policy.population_of(ledgers.data_set)
        books[site] = _book(ledger.history(population), cap)
    return promise(study) | {
        "epsilon": {site: values["epsilon"] for site, values in spent.items()},
        "spent": spent,
        "ledger": books,
    }


def _spent(history: Sequence[SampledGaussian], delta: float) -> dict[str, Any]:
    """What this run has spent at one site, crashed rounds included."""
    bounds = epsilon_spent(history, delta)
    return {
        "epsilon": bounds.epsilon,
        "prv": None if math.isnan(bounds.prv) else bounds.prv,
        "rdp": bounds.rdp,
        "noise_multiplier": history[-1].noise_multiplier,
        "sample_rate": history[-1].sample_rate,
        "steps": sum(cost.steps for cost in history),
    }


def _book(history: Sequence[SampledGaussian], cap: Cap) -> dict[str, float]:
    """What the population has spent over all studies, and what its cap leaves."""
    spent = epsilon_spent(history, cap.delta).epsilon
    return {
        "cap": cap.epsilon,
        "delta": cap.delta,
        "spent": spent,
        "left": max(0.0, cap.epsilon - spent),
    }


# --- time and memory -------------------------------------------------------------------------


def _finals(lines: Journals) -> dict[str, dict[str, Any]]:
    return {site: done[-1] for site, done in lines.items() if done and "final_counts" in done[-1]}


def _seconds(lines: Journals, total: float, processes: int) -> dict[str, float]:
    """Total, and the share of it that training and evaluation take, spread over the processes."""
    busy = sum(
        line.get("training_seconds", 0.0) + line["evaluation_seconds"]
        for done in lines.values()
        for line in done
    )
    training = min(total, busy / min(processes, len(lines) or 1))
    return {"total": total, "training": training, "overhead": total - training}


def _peak_memory(lines: Journals) -> float:
    """Sum of the peaks of all processes; shared pages are counted once for each of them."""
    peaks: dict[int, float] = {
        line["pid"]: line["peak_rss_mb"] for done in lines.values() for line in done
    }
    peaks[os.getpid()] = peak_rss_mb()
    return sum(peaks.values())
