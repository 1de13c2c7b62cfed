"""What made images bring to a classifier that has few real ones.

A hospital with a share of the training patients trains a classifier without and with made images
added, and with these alone; beside them stands one that has all real images. All are measured on
the same validation patients, whom neither classifier nor generator has seen, and all see as many
examples while they are trained.
"""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wardround_client.cohort import Cohort, CohortSet
from wardround_server.run_folder import RunFolder
from wardround_shared.errors import RunFolderError, StudyError
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import Study
from wardround_shared.tasks import task_of
from wardround_simulations.comparison.bootstrap import ALL, Values, draws, interval, values
from wardround_simulations.comparison.measuring import PatientCounts, measure
from wardround_simulations.comparison.outcome import verdict_of
from wardround_simulations.comparison.ways import at_one_place
from wardround_simulations.evaluation import FinishedRun, open_run
from wardround_simulations.federation import simulate
from wardround_simulations.generating.effect_text import effect_text
from wardround_simulations.generating.mixing import Made, mixed, share_of, short_lived_folder
from wardround_simulations.generating.samples import made, said_of
from wardround_simulations.generating.unseen import require_unseen, with_split_of
from wardround_simulations.metric_names import METRICS, NO_SCORES
from wardround_simulations.settings import Settings
from wardround_simulations.steps import Watcher
from wardround_simulations.threads import one_torch_thread
from wardround_simulations.virtual_sites import read_cohorts

EFFECT, TEXT = "effect.json", "effect.md"
"""Files of the folder."""

FEW, ADDED, MADE, EVERYTHING = "real", "real and made", "made", "all real"
"""What a classifier is trained on."""

DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class EffectSettings:
    """What to measure.

    Attributes:
        settings: of the classifier's study, without privacy; `data` as the study wants them.
        share: of the training patients whose real images the hospital has.
        count: made images, in the mix of classes of the real ones.
        repeats: seeds over which figures are averaged.
        command: that asked for it; goes into what is written.
    """

    settings: Settings
    share: float
    count: int
    repeats: int
    command: str = ""

    @property
    def seeds(self) -> range:
        """One for each repeat."""
        return range(self.settings.seed, self.settings.seed + self.repeats)


def effect(run: FinishedRun, asked: EffectSettings, out: Path, watcher: Watcher) -> dict[str, Any]:
    """Train, measure, and write the folder; returns what stands in `effect.json`.

    Raises:
        StudyError: the two studies do not go together.
        RunFolderError: the folder is there already.
        WardroundError: of any other kind.
    """
    with _new_folder(out) as folder:
        result = _effect(run, asked, watcher)
        folder.write_json(EFFECT, result)
        folder.write_text(TEXT, effect_text(result))
    return result


@contextmanager
def _new_folder(out: Path) -> Iterator[RunFolder]:
    """Made before the work, which would be lost without it, and gone again if that fails."""
    try:
        out.mkdir(parents=True)
    except FileExistsError as error:
        raise RunFolderError(
            f"{out}: this folder exists already; name another with --out."
        ) from error
    except OSError as error:
        raise RunFolderError(
            f"{out}: cannot be made ({error.strerror}); choose another."
        ) from error
    try:
        yield RunFolder(out)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _effect(run: FinishedRun, asked: EffectSettings, watcher: Watcher) -> dict[str, Any]:
    study = with_split_of(run.study, at_one_place(asked.settings.study))
    settings = replace(asked.settings, study=study, sites=1, out=None)
    (cohort,) = read_cohorts(settings).cohorts
    _require_alike(run, study, cohort)
    require_unseen(run.study, settings, cohort)
    watcher.planned(4 * asked.repeats)
    hospital = _Hospital(run=run, asked=asked, settings=settings, cohort=cohort)
    trained: dict[str, list[_Classifier]] = {}
    for seed in asked.seeds:
        for one in hospital.classifiers(seed, watcher):
            trained.setdefault(one.name, []).append(one)
    patients = len(np.unique(cohort.patients[cohort.validation]))
    drawn = draws({cohort.site: patients}, number=DRAWS, seed=asked.settings.seed)
    measured = {name: [{ALL: one.counts} for one in each] for name, each in trained.items()}
    return _said(run, asked, trained, values(measured, task_of(study), drawn), patients)


def _require_alike(run: FinishedRun, study: Study, cohort: Cohort) -> None:
    """Refuse a classifier that would not see made images as it sees real ones."""
    shapes = tuple(tuple(array.shape[1:]) for array in cohort.arrays)
    if study.study.kind != "classification" or study.study.classes != run.study.study.classes:
        raise StudyError(
            f"{study.study.task}: the images were made as {', '.join(run.study.study.classes)}, "
            "and a classifier has to tell these classes in this order; take another study."
        )
    if Recipe(study).cache_key != Recipe(run.study).cache_key or shapes != run.shapes:
        raise StudyError(
            "--effect-on: its images are decoded in another way than those that the generator was "
            "trained on; give both studies the same steps that change an image."
        )


@dataclass(frozen=True, kw_only=True)
class _Classifier:
    """One trained classifier: what it was trained on, and what it found.

    Attributes:
        examples: that it was trained on.
        passes: over them.
    """

    name: str
    examples: int
    passes: int
    counts: PatientCounts


@dataclass(frozen=True, kw_only=True)
class _Hospital:
    """Where the classifiers are trained."""

    run: FinishedRun
    asked: EffectSettings
    settings: Settings
    cohort: Cohort

    def classifiers(self, seed: int, watcher: Watcher) -> list[_Classifier]:
        """Those of one seed, trained and measured.

        Raises:
            DataError: the training data cannot be laid together.
        """
        cohort = self.cohort
        rows = share_of(cohort, self.asked.share, seed)
        # In the hospital's own mix of classes: another one would move thresholds by itself.
        labels = np.resize(np.asarray(cohort.targets[rows]), self.asked.count)
        new = Made(images=made(self.run, labels, seed=seed), labels=labels)
        most, found = len(rows) + self.asked.count, []
        # Beside the cohorts, where patients' data may lie; gone with the measurement.
        with short_lived_folder(cohort.folder.parent) as place:
            for name, (real, images) in {
                FEW: (rows, None),
                ADDED: (rows, new),
                MADE: (rows[:0], new),
                EVERYTHING: (cohort.train, None),
            }.items():
                folder = place / name.replace(" ", "-")
                note = f"trained at one place on {name} images, to measure what made ones bring."
                cohorts = mixed(cohort, real, images, folder, note)
                found.append(self._classifier(name, cohorts, most, seed, watcher))
        return found

    def _classifier(
        self, name: str, cohorts: CohortSet, most: int, seed: int, watcher: Watcher
    ) -> _Classifier:
        """Train one on these cohorts, and measure it on all validation patients."""
        examples = len(cohorts.cohorts[0].train)
        study = _as_long(self.settings.study, most / examples)
        observer = watcher.begin(f"{name} (seed {seed})", study.training.rounds)
        out = cohorts.folder / "run"
        simulate(replace(self.settings, study=study, seed=seed, out=out), observer, cohorts=cohorts)
        with one_torch_thread():
            counts = measure(open_run(out), self.cohort, task_of(study))
        passes = study.training.rounds * study.training.local_epochs
        return _Classifier(name=name, examples=examples, passes=passes, counts=counts)


def _as_long(study: Study, times: float) -> Study:
    """With so many times the rounds: all classifiers see as many examples, up to one round more."""
    rounds = math.ceil(study.training.rounds * times)
    changed = {
        "rounds": rounds,
        "average_last": min(study.training.average_last, rounds),
        "local_steps": None,  # by passes, which go by the number of examples
    }
    training = study.training.model_copy(update=changed)
    return study.model_copy(update={"training": training})


def _said(
    run: FinishedRun,
    asked: EffectSettings,
    trained: dict[str, list[_Classifier]],
    found: dict[str, dict[str, dict[str, Values]]],
    patients: int,
) -> dict[str, Any]:
    shown = [name for name in METRICS if name in found[FEW][ALL] and name not in NO_SCORES]
    differences = {
        name: interval(found[ADDED][ALL][name] - found[FEW][ALL][name], patients) for name in shown
    }
    return {
        "study": asked.settings.study.study.name,
        "generator": said_of(run),
        "command": asked.command,
        "share": asked.share,
        "made": asked.count,
        "seeds": list(asked.seeds),
        "draws": DRAWS,
        "patients": patients,
        "shown": shown,
        "trained_on": {
            name: {
                "examples": trained[name][-1].examples,
                "passes": trained[name][-1].passes,
                "metrics": {
                    metric: asdict(interval(scopes[ALL][metric], patients)) for metric in shown
                },
            }
            for name, scopes in found.items()
        },
        "added_minus_real": {name: asdict(one) for name, one in differences.items()},
        "verdicts": {name: verdict_of(one) for name, one in differences.items()},
    }
