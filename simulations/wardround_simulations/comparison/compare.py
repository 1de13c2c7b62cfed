"""Train in all ways, measure each model on the same patients, and say how sure that is."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wardround_client.cohort import CohortSet
from wardround_server.run_folder import RunFolder
from wardround_shared.errors import RunFolderError, UnsupportedError, WardroundError
from wardround_shared.study import Study
from wardround_shared.tasks import Task, task_of
from wardround_simulations.comparison.bootstrap import ALL, draws, values
from wardround_simulations.comparison.measuring import PatientCounts, measure, together
from wardround_simulations.comparison.outcome import (
    Found,
    Trained,
    cohorts_said,
    differences_said,
    measures,
    ways_said,
)
from wardround_simulations.comparison.pooling import only, pooled
from wardround_simulations.comparison.splits import Splits, read_splits
from wardround_simulations.comparison.tables import comparison_text
from wardround_simulations.comparison.ways import Studies, Way, ways_of
from wardround_simulations.evaluation import open_own, open_run
from wardround_simulations.federation import simulate
from wardround_simulations.settings import Settings, default_run_folder
from wardround_simulations.steps import Watcher
from wardround_simulations.summary import all_notes
from wardround_simulations.threads import one_torch_thread
from wardround_simulations.virtual_sites import check_privacy, check_sites

COMPARISON, TEXT = "compare.json", "comparison.md"
"""Files of a comparison's folder."""

DRAWS = 1000

# With more sites than this, a site's own model is measured there and at all sites together, and no
# longer at each of the others.
_EACH_AT_EACH = 8

Scoped = Mapping[str, PatientCounts]


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What to compare, and how.

    Attributes:
        settings: as for a single run; each way has its own study and run folder.
        repeats: seeds, from the settings' one on, over which figures are averaged.
        command: that asked for it; goes into what is written.
        number: draws of the bootstrap.
    """

    studies: Studies
    settings: Settings
    repeats: int = 1
    command: str = ""
    number: int = DRAWS

    @property
    def seeds(self) -> range:
        """One for each repeat."""
        return range(self.settings.seed, self.settings.seed + self.repeats)


def compare(asked: CompareSettings, watcher: Watcher) -> dict[str, Any]:
    """Compare all ways and return what stands in `compare.json`.

    1. read the cohorts, and refuse what some way would refuse, 2. train each way with each seed and
    measure its model, 3. draw patients, 4. write the folder.

    Raises:
        WardroundError: of any kind. A site that cannot train alone is none: its row says why.
    """
    studies = asked.studies
    out = asked.settings.out or default_run_folder(f"{studies.plain.study.name}-compare")
    if out.exists():
        raise RunFolderError(f"{out}: this folder exists already; name another with --out.")
    if studies.plain.study.kind == "generation":
        raise UnsupportedError(
            "--compare: it measures patient by patient, and made images are of no patient; see "
            "what they bring with wardround generate --effect-on."
        )
    plain, private = read_splits(asked.settings, studies)
    _check(asked, plain, private)
    ways = ways_of(studies, _with_training(plain.trained))
    watcher.planned(len(ways) * asked.repeats + 1)
    counts: dict[str, list[Scoped]] = {}
    trained = []
    for way in ways:
        splits = private if way.kind == "federated-dp" and private else plain
        one, measured = _tried(asked, way, splits, out, watcher)
        trained.append(one)
        if measured:
            counts[way.key] = measured
    watcher.begin(f"{asked.number} draws of the patients", 1)
    drawn = draws(_patients(plain.scored), number=asked.number, seed=asked.settings.seed)
    found = values(counts, task_of(studies.plain), drawn)
    result = {"folder": str(out)} | _outcome(asked, trained, plain, found)
    folder = RunFolder(out)
    folder.write_json(COMPARISON, result)
    folder.write_text(TEXT, comparison_text(result))
    return result


def _check(asked: CompareSettings, plain: Splits, private: Splits | None) -> None:
    """Refuse before anything is trained what the federated ways would refuse.

    Raises:
        NotEnoughSitesError: too few sites for the study.
        PrivacyError: no noise reaches the study's epsilon.
    """
    check_sites(asked.studies.plain, plain.trained)
    if private is not None and asked.studies.private is not None:
        check_sites(asked.studies.private, private.trained)
        check_privacy(replace(asked.settings, study=asked.studies.private), private.trained)


def _with_training(cohorts: CohortSet) -> dict[str, str]:
    """Sites that can train alone, and a folder's name for each."""
    return {cohort.site: cohort.folder.name for cohort in cohorts.cohorts if len(cohort.train)}


# --- one way ---------------------------------------------------------------------------------


def _tried(
    asked: CompareSettings, way: Way, splits: Splits, out: Path, watcher: Watcher
) -> tuple[Trained, list[Scoped]]:
    """Train one way with each seed; what came of it, and the counts of each model's patients."""
    started = time.perf_counter()
    runs = [out / f"seed-{seed}" / way.folder for seed in asked.seeds]
    measured = []
    try:
        for seed, run in zip(asked.seeds, runs, strict=True):
            seeded = f" (seed {seed})" if asked.repeats > 1 else ""
            observer = watcher.begin(f"{way.title}{seeded}", way.study.training.rounds)
            settings = _settings(asked.settings, way, run, seed)
            simulate(settings, observer, cohorts=_trained_on(way, splits.trained))
            measured.append(_measured(way, run, splits.scored))
    except WardroundError as error:
        if way.kind != "alone":
            raise
        return Trained(way=way, by_seed={}, failed=str(error)), []
    seconds = time.perf_counter() - started
    by_seed = _by_seed(measured, task_of(way.study))
    return Trained(way=way, runs=tuple(runs), seconds=seconds, by_seed=by_seed), measured


def _settings(settings: Settings, way: Way, run: Path, seed: int) -> Settings:
    """Of one run; where all data lie in one place there is nothing to spread over processes."""
    return replace(
        settings,
        study=way.study,
        out=run,
        seed=seed,
        backend=settings.backend if way.kind.startswith("federated") else "inline",
        noise_seed=settings.noise_seed if way.study.privacy.private else None,
    )


def _trained_on(way: Way, cohorts: CohortSet) -> CohortSet:
    if way.kind == "pooled":
        return pooled(cohorts)
    return only(cohorts, way.site) if way.kind == "alone" else cohorts


def _measured(way: Way, run: Path, scored: CohortSet) -> Scoped:
    """Counts of the patients of each site, and of all sites together."""
    finished, task = open_run(run), task_of(way.study)
    with one_torch_thread():  # so that it does not depend on the machine
        by_site = {
            cohort.site: measure(
                open_own(run, cohort.folder.name) if way.study.personal.any else finished,
                cohort,
                task,
            )
            for cohort in scored.cohorts
        }
    everybody = {ALL: together(list(by_site.values()))}
    if way.kind == "alone" and len(by_site) > _EACH_AT_EACH:
        return everybody | {way.site: by_site[way.site]}
    return everybody | by_site


def _by_seed(measured: Sequence[Scoped], task: Task) -> dict[str, list[float | None]]:
    """Metric -> at all sites together, of each seed."""
    each = [task.metrics(one[ALL].summed(np.ones(one[ALL].patients, np.int64))) for one in measured]
    return {metric: [one[metric] for one in each] for metric in each[0] if metric != "n"}


# --- all ways --------------------------------------------------------------------------------


def _outcome(
    asked: CompareSettings,
    trained: Sequence[Trained],
    plain: Splits,
    found: Found,
) -> dict[str, Any]:
    study = asked.studies.plain
    patients = _patients(plain.scored)
    patients = patients | {ALL: sum(patients.values())}
    shown = measures(found)
    return {
        "study": study.study.name,
        "study_id": study.study_id,
        "command": asked.command,
        "seeds": list(asked.seeds),
        "draws": asked.number,
        "unit": "patient" if study.data.names_patients else "record",
        "patients": patients[ALL],
        "shown": shown,
        "sites": cohorts_said(plain.scored, patients),
        "ways": ways_said(trained, found, patients),
        "differences": differences_said(trained, found, patients),
        "notes": _notes(asked, plain, trained),
    }


def _patients(cohorts: CohortSet) -> dict[str, int]:
    """Validation patients of each site."""
    return {
        cohort.site: len(np.unique(cohort.patients[cohort.validation]))
        for cohort in cohorts.cohorts
    }


def _other_sections(study: Study, private: Study) -> list[str]:
    """What else than privacy the study has in another form for private training."""
    names = ("data", "preprocessing", "model", "training", "personal", "aggregation")
    return [name for name in names if getattr(study, name) != getattr(private, name)]


def _notes(asked: CompareSettings, plain: Splits, trained: Sequence[Trained]) -> list[str]:
    study, private = asked.studies.plain, asked.studies.private
    notes = all_notes(plain.trained)
    if asked.studies.why_not:
        notes.append(asked.studies.why_not)
    if private is not None and (others := _other_sections(study, private)):
        notes.append(
            "with differential privacy the study has other settings ([private]) of "
            f"{', '.join(others)}: that row differs in more than the noise."
        )
    if plain.scored is not plain.trained:
        notes.append("data.max-per-patient is for training: validation patients have all examples.")
    if study.personal.any:
        notes.append(
            "federated, each site's patients are measured under that site's own model ([personal])."
        )
    if study.training.local_steps is not None:
        notes.append(
            f"each way takes {study.training.local_steps} steps in a round (training.local-steps): "
            "pooled, the data are gone through less often than at the sites."
        )
    passes = {one.way.kind: one.way.passes for one in trained}
    if private is not None and passes["federated-dp"] != passes["federated"]:
        notes.append(
            f"with differential privacy there are {passes['federated-dp']} passes over the data, "
            f"without it {passes['federated']}."
        )
    if private is not None and asked.settings.noise_seed is not None:
        notes.append("the noise was INJECTED FOR A TEST: no model here is private.")
    if not study.data.names_patients:
        notes.append(
            "the study names no patient column: each record counts as a patient of its own, and "
            "intervals are too narrow where a patient has several."
        )
    return notes
