"""A finished run's model on other data: overall and per site."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wardround_client.cohort import CohortSet, build_cohorts, kept_cohorts
from wardround_client.personal_files import PERSONAL
from wardround_client.prepared import prepare
from wardround_client.training import Examples, evaluate
from wardround_server.run_folder import STUDY, SUMMARY, read_model
from wardround_shared import __version__
from wardround_shared.agreement import same_release
from wardround_shared.errors import RunFolderError
from wardround_shared.messages import Fitted, read_shapes
from wardround_shared.network import build_network
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import IndexedData, PhantomData, Study, load_study, unprotected
from wardround_shared.tasks import task_of
from wardround_simulations.settings import SITES
from wardround_simulations.summary import all_notes
from wardround_simulations.virtual_sites import phantom_folder

_PREPROCESSING = "preprocessing."


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What a run folder holds of the trained model.

    Attributes:
        module: in evaluation mode, on the CPU.
        fitted: preprocessing constants, one mapping a fitted step.
        shapes: of one decoded example before the fitted steps: main, and static if there is one.
        software: the version of wardround that wrote the model.
        not_private: what is to be said of a model that protects nobody; else empty.
    """

    study: Study
    module: nn.Module
    fitted: Fitted
    shapes: tuple[tuple[int, ...], ...]
    software: str
    not_private: str


def open_run(path: Path) -> FinishedRun:
    """Read a run folder.

    Raises:
        RunFolderError: it is not there, not finished, damaged, of another release, or its parts do
            not belong together.
    """
    return _opened(path, path)


def open_own(path: Path, site: str) -> FinishedRun:
    """Read a simulated site's own model from a run folder.

    Args:
        path: of the run.
        site: name of the site's folder in it.

    Raises:
        RunFolderError: see `open_run`.
    """
    return _opened(path, path / SITES / site / PERSONAL)


def _opened(path: Path, model: Path) -> FinishedRun:
    if not (path / STUDY).is_file():
        raise RunFolderError(f"{path}: this is no run folder; it has no {STUDY}.")
    study = load_study(path / STUDY)
    arrays, metadata = read_model(model)
    if metadata.get("study_id") != study.study_id:
        raise RunFolderError(f"{path}: the model was trained with another study.toml.")
    software = metadata.get("software", "of an unknown version")
    if not same_release(software, __version__):
        raise RunFolderError(
            f"{path}: the model was written by wardround {software[:20]}, and this is "
            f"{__version__}, which may prepare inputs in another way; install that release."
        )
    try:
        return _assembled(study, arrays, metadata, read_summary(path))
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise RunFolderError(
            f"{path}: the model file does not fit the network of its study, arrays are missing or "
            "of another shape; restore the run folder from a backup."
        ) from error


def _assembled(
    study: Study,
    arrays: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str],
    summary: Mapping[str, Any],
) -> FinishedRun:
    """The network with its weights; raises whatever comes up if the arrays are others."""
    fitted: list[dict[str, np.ndarray]] = [{} for _ in range(int(metadata["fitted_steps"]))]
    state: dict[str, torch.Tensor] = {}
    for name, array in arrays.items():
        if name.startswith(_PREPROCESSING):
            step, key = name.removeprefix(_PREPROCESSING).split(".", 1)
            fitted[int(step)][key] = array
        else:
            state[name] = torch.from_numpy(array)
    shapes = read_shapes(metadata["shapes"])
    # Fresh weights are drawn and replaced: nobody's random state should know of it.
    with torch.random.fork_rng(devices=[]):
        module = build_network(study, Recipe(study).output_shapes(shapes))
    module.load_state_dict(state)
    return FinishedRun(
        study=study,
        module=module.eval(),
        fitted=tuple(fitted),
        shapes=shapes,
        software=metadata["software"],
        not_private=unprotected(study, summary.get("noise", "system")),
    )


def evaluate_run(path: Path, data: Path | None, *, cache: Path) -> dict[str, Any]:
    """Metrics of a run's model on all examples in `data`: `{"metrics", "per_site", ...}`.

    `"trained_on"` is the number of scored examples whose patient keys the model was trained on,
    None if that cannot be told; unless it is 0, a note says so.

    Raises:
        WardroundError: the run or the data cannot be used.
    """
    run = open_run(path)
    study = run.study
    if data is None:
        if not isinstance(study.data, PhantomData):
            raise RunFolderError(f"{path}: say with --data where the study's files lie.")
        data = phantom_folder(study.data, cache=cache, seed=_OTHER_PATIENTS)
    task = task_of(study)
    recipe = Recipe(study)
    cohorts = build_cohorts(
        _unthinned(study),
        data,
        cache=cache,
        burned_in=study.simulation.allow_burned_in_annotation,
    )
    per_site = {}
    for cohort in cohorts.cohorts:
        examples = Examples(
            parts=tuple(torch.from_numpy(p) for p in prepare(cohort, recipe, run.fitted)),
            targets=torch.from_numpy(cohort.targets),
            patients=torch.from_numpy(cohort.patients),
        )
        everyone = torch.arange(len(cohort.patients))
        per_site[cohort.site] = evaluate(run.module, examples, everyone, task)
    overall = np.sum(list(per_site.values()), axis=0)
    summary = read_summary(path)
    trained_on = _trained_on(study, summary, cohorts, cache)
    return {
        "metrics": task.metrics(overall),
        "per_site": {site: task.metrics(counts) for site, counts in per_site.items()},
        "privacy": study.privacy.mechanism,
        "noise": str(summary.get("noise", "unknown")),
        "secure_aggregation": study.aggregation.secure,
        "set_aside": {site: dict(why) for site, why in cohorts.set_aside.items()},
        "trained_on": trained_on,
        "notes": [*all_notes(cohorts), *_notes_on_training(trained_on, int(overall[0]))],
    }


def _unthinned(study: Study) -> Study:
    """The study with all examples of each patient: `max-per-patient` is for training."""
    return study.model_copy(
        update={"data": study.data.model_copy(update={"max_per_patient": None})}
    )


def read_summary(path: Path) -> dict[str, Any]:
    """The run's summary; a run without one claims nothing.

    Raises:
        RunFolderError: it is damaged.
    """
    summary = path / SUMMARY
    if not summary.is_file():
        return {}
    try:
        content = json.loads(summary.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{summary}: the summary is damaged ({error}).") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{summary}: the summary is damaged (it is no JSON object).")
    return content


def _trained_on(
    study: Study, summary: Mapping[str, Any], scored: CohortSet, cache: Path
) -> int | None:
    """How many of the scored examples have a patient key that is in the run's training splits.

    The run folder names the run's cohorts by their key in the cache only: who was in them stays
    where the patient files have been read.
    """
    key = summary.get("cohorts_key")
    kept = kept_cohorts(cache / key) if isinstance(key, str) else None
    if kept is None:
        return None
    trained = np.concatenate([cohort.patients[cohort.train] for cohort in kept.cohorts])
    patients = np.concatenate([cohort.patients for cohort in scored.cohorts])
    number = int(np.isin(patients, trained).sum())
    if not number and isinstance(study.data, IndexedData) and study.data.patient is None:
        # Keys made of rows or file names: the same patients may stand in other rows here.
        return None
    return number


def _notes_on_training(trained_on: int | None, scored: int) -> list[str]:
    if trained_on == 0:
        return []
    if trained_on is None:
        note = (
            "whether the model was trained on these patients cannot be told, because the study "
            "names no patient column or the run's cohorts are not in the cache: the figures may be "
            "no estimate for new patients."
        )
    else:
        note = (
            f"{trained_on} of the {scored} examples have patient keys that the model was trained "
            "on: unless these are other patients, the figures are no estimate for new ones."
        )
    return [note]


# Phantoms of patients that no run has trained on, unless it was given this very seed.
_OTHER_PATIENTS = 0x5EED0FFD
