"""What is audited: one site of a finished run, with its data, its model and what was promised."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wardround_client.account import units_of
from wardround_client.cohort import Cohort, CohortSet
from wardround_client.prepared import prepare
from wardround_client.training import Examples
from wardround_server.run_folder import SUMMARY
from wardround_shared.errors import CohortError, DataError, RunFolderError, StudyError
from wardround_shared.models import flatten, unflatten_
from wardround_shared.network import build_network
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import Study
from wardround_simulations.evaluation import FinishedRun, open_run
from wardround_simulations.settings import Settings
from wardround_simulations.virtual_sites import read_cohorts


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One site of a finished run.

    Attributes:
        study: as run.
        model: the run's, without dropout, which would only blur what a canary leaves.
        examples: the training split, prepared for the model.
        units: patients, or records, in it.
        summary: what the run says of itself.
    """

    study: Study
    site: str
    model: nn.Module
    examples: Examples
    units: int
    summary: dict[str, Any]


def open_subject(path: Path, data: Path | None, *, site: str | None, cache: Path) -> Subject:
    """Read a run and the data of one of its sites.

    Args:
        path: run folder.
        data: the run's data; none for the embedded study, which is made again from the run's seed.
        site: by name; without it the one with the most patients (or records) to train on.
        cache: of cohorts.

    Raises:
        StudyError: the run made no promise that could be audited, or has no classes.
        RunFolderError: the run folder is damaged or not finished.
        DataError: the data are not those of the run, or have no such site.
    """
    run = open_run(path)
    if not run.study.privacy.private:
        raise StudyError(
            f"{path}: this run was trained without differential privacy (privacy.mechanism = "
            '"none"), so that there is no promise to audit.'
        )
    if run.study.study.kind != "classification":
        raise StudyError(
            f"{path}: an audit plants examples of one class, and {run.study.study.task} has none; "
            "audit a classification on the same data."
        )
    summary = _summary(path)
    cohort = _choose(run.study, _cohorts(run.study, summary, data, cache), site)
    return Subject(
        study=run.study,
        site=cohort.site,
        model=_without_dropout(run, cohort),
        examples=_training_split(run, cohort),
        units=units_of(run.study, cohort),
        summary=summary,
    )


def _summary(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
        if not {"seed", "sites", "cohorts", "privacy"} <= set(content):
            raise RunFolderError(f"{path}: {SUMMARY} is not the summary of a run.")
    except (OSError, ValueError, TypeError) as error:
        raise RunFolderError(f"{path}: {SUMMARY} is missing or damaged.") from error
    return content


def _cohorts(study: Study, summary: dict[str, Any], data: Path | None, cache: Path) -> CohortSet:
    """The run's cohorts, dealt as they were: by hospital, or to so many virtual sites."""
    for sites in (None, int(summary["sites"])):
        found = read_cohorts(
            Settings(
                study=study,
                data=data,
                sites=sites,
                backend="inline",
                workers=1,
                device="cpu",
                out=None,
                seed=int(summary["seed"]),
                cache=cache,
            )
        )
        if {cohort.site for cohort in found.cohorts} == set(summary["cohorts"]):
            return found
    raise DataError(
        f"{data or 'The phantoms'}: these data give other sites than the run had; name the folder "
        "that the run was made from with --data."
    )


def _choose(study: Study, cohorts: CohortSet, site: str | None) -> Cohort:
    by_site = {cohort.site: cohort for cohort in cohorts.cohorts}
    if site is not None and site not in by_site:
        raise DataError(f"--site {site}: the run had no such site ({', '.join(by_site)}).")
    chosen = by_site[site or max(by_site, key=lambda name: units_of(study, by_site[name]))]
    if not len(chosen.train):
        raise CohortError(f"Site {chosen.site} has nobody to train on; name another with --site.")
    return chosen


def _without_dropout(run: FinishedRun, cohort: Cohort) -> nn.Module:
    model = run.study.model.model_copy(update={"dropout": 0.0})
    study = run.study.model_copy(update={"model": model})
    shapes = tuple(tuple(array.shape[1:]) for array in cohort.arrays)
    module = build_network(study, Recipe(study).output_shapes(shapes))
    unflatten_(module, flatten(run.module))
    return module


def _training_split(run: FinishedRun, cohort: Cohort) -> Examples:
    parts = prepare(cohort, Recipe(run.study), run.fitted)
    return Examples(
        parts=tuple(torch.from_numpy(part[cohort.train]) for part in parts),
        targets=torch.from_numpy(cohort.targets[cohort.train]),
        patients=torch.from_numpy(cohort.patients[cohort.train]),
    )
