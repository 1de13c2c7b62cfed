"""One setting on one fold, trained and scored: the work of one process."""

import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from wardround_client.cohort import CohortSet, open_cohort
from wardround_server.observer import Observer
from wardround_shared.errors import WardroundError
from wardround_shared.privacy.accounting import SampledGaussian
from wardround_shared.tasks import task_of
from wardround_simulations.federation import simulate
from wardround_simulations.settings import Settings
from wardround_simulations.tuning.cost import Spent


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker needs; small enough to be sent to one.

    Attributes:
        settings: with the study of the trial.
        cohorts: folders of the fold's cohorts.
        scratch: where run folders lie as long as they are needed.
    """

    trial: int
    fold: int
    settings: Settings
    cohorts: Sequence[Path]
    scratch: Path


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of one setting on one fold.

    Attributes:
        metrics: on the fold's patients, of all sites together.
        spent: by the training, where it was private.
        failed: why there are no metrics; empty if there are.
    """

    trial: int
    fold: int
    metrics: Mapping[str, Any] = field(default_factory=dict)
    spent: Spent = field(default_factory=dict)
    failed: str = ""


def run_jobs(jobs: Sequence[Job], workers: int) -> Iterator[Score]:
    """The scores, in the order in which they are there."""
    if workers == 1 or len(jobs) == 1:
        yield from map(run_job, jobs)
        return
    # Not forked: torch has threads by now.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_end_at_ctrl_c
    ) as pool:
        try:
            for done in as_completed([pool.submit(run_job, job) for job in jobs]):
                yield done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_at_ctrl_c() -> None:
    """A worker ends without a word when the command is interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_job(job: Job) -> Score:
    """Train and score; the run folder is gone when this returns."""
    cohorts = CohortSet(
        folder=job.cohorts[0].parent,
        cohorts=tuple(open_cohort(folder) for folder in job.cohorts),
        set_aside={},
        notes=(),
    )
    try:
        with TemporaryDirectory(dir=job.scratch) as folder:
            settings = replace(job.settings, out=Path(folder) / "run", backend="inline")
            summary = simulate(settings, Observer(), cohorts=cohorts)
    except WardroundError as error:
        return Score(trial=job.trial, fold=job.fold, failed=str(error))
    counts = np.array(summary["counts"]["overall"])
    spent = {
        site: SampledGaussian(
            noise_multiplier=one["noise_multiplier"],
            sample_rate=one["sample_rate"],
            steps=one["steps"],
        )
        for site, one in summary["privacy"].get("spent", {}).items()
    }
    metrics = task_of(settings.study).metrics(counts)
    if summary["personal"]:  # what the hospitals will use
        metrics = summary["personal"]["own"]["metrics"]
    return Score(trial=job.trial, fold=job.fold, metrics=metrics, spent=spent)
