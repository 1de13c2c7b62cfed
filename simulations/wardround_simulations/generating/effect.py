"""What made images bring to a classifier that has few real ones.

A hospital with a share of the training patients trains a classifier without and with made images
added, and with these alone; beside them stands one that has all real images. All are measured on
the same validation patients, whom neither classifier nor generator has seen, and all see as many
examples while they are trained.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from wardround_client.cohort import Cohort
from wardround_server.run_folder import RunFolder
from wardround_shared.errors import DataError, RunFolderError, StudyError
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
from wardround_simulations.generating.mixing import Made, mixed, share_of
from wardround_simulations.generating.samples import made, said_of
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
    if out.exists():
        raise RunFolderError(f"{out}: this folder exists already; name another with --out.")
    settings = replace(asked.settings, study=at_one_place(asked.settings.study), sites=1)
    (cohort,) = read_cohorts(settings).cohorts
    _require_alike(run, settings.study, cohort)
    watcher.planned(4 * asked.repeats)
    hospital = _Hospital(run=run, asked=asked, settings=settings, cohort=cohort, out=out)
    measured: dict[str, list[dict[str, PatientCounts]]] = {}
    examples: dict[str, int] = {}
    for seed in asked.seeds:
        for one in hospital.classifiers(seed, watcher):
            measured.setdefault(one.name, []).append({ALL: one.counts})
            examples[one.name] = one.examples
    patients = len(np.unique(cohort.patients[cohort.validation]))
    drawn = draws({cohort.site: patients}, number=DRAWS, seed=asked.settings.seed)
    found = values(measured, task_of(settings.study), drawn)
    result = _said(run, asked, found, examples, patients)
    folder = RunFolder(out)
    folder.write_json(EFFECT, result)
    folder.write_text(TEXT, effect_text(result))
    return result


def _require_alike(run: FinishedRun, study: Study, cohort: Cohort) -> None:
    """Refuse a classifier that would not see made images as it sees real ones."""
    shapes = tuple(tuple(array.shape[1:]) for array in cohort.arrays)
    if study.study.kind != "classification" or study.study.classes != run.study.study.classes:
        raise StudyError(
            f"{study.study.name}: the images were made as {', '.join(run.study.study.classes)}, "
            "and the classifier has to tell these classes in this order; take another study."
        )
    if Recipe(study).cache_key != Recipe(run.study).cache_key or shapes != run.shapes:
        raise StudyError(
            f"{study.study.name}: its images are decoded in another way than those that the "
            "generator was trained on; give both studies the same steps that change an image."
        )


@dataclass(frozen=True, kw_only=True)
class _Classifier:
    """One trained classifier: what it was trained on, on how many examples, what it found."""

    name: str
    examples: int
    counts: PatientCounts


@dataclass(frozen=True, kw_only=True)
class _Hospital:
    """Where the classifiers are trained."""

    run: FinishedRun
    asked: EffectSettings
    settings: Settings
    cohort: Cohort
    out: Path

    def classifiers(self, seed: int, watcher: Watcher) -> Iterator[_Classifier]:
        """Those of one seed, each once it is trained and measured."""
        cohort = self.cohort
        rows = share_of(cohort, self.asked.share, seed)
        # In the hospital's own mix of classes: another one would move thresholds by itself.
        labels = np.resize(np.asarray(cohort.targets[rows]), self.asked.count)
        new = Made(images=made(self.run, labels, seed=seed), labels=labels)
        kinds = {
            FEW: (rows, None),
            ADDED: (rows, new),
            MADE: (rows[:0], new),
            EVERYTHING: (cohort.train, None),
        }
        try:
            # Beside the cohorts, where patients' data may lie; gone with the measurement.
            with TemporaryDirectory(prefix=".mixed-", dir=cohort.folder.parent) as place:
                for name, (real, images) in kinds.items():
                    folder = Path(place) / name.replace(" ", "-")
                    cohorts = mixed(cohort, real, images, folder, _note(name))
                    examples = len(cohorts.cohorts[0].train)
                    study = _as_long(self.settings.study, (len(rows) + self.asked.count) / examples)
                    observer = watcher.begin(f"{name} (seed {seed})", study.training.rounds)
                    out = self.out / f"seed-{seed}" / folder.name
                    settings = replace(self.settings, study=study, seed=seed, out=out)
                    simulate(settings, observer, cohorts=cohorts)
                    yield _Classifier(name=name, examples=examples, counts=self._measured(out))
        except OSError as error:
            raise DataError(
                f"{cohort.folder.parent}: the training data cannot be laid together "
                f"({error.strerror}); free some space or keep the cache elsewhere."
            ) from error

    def _measured(self, run: Path) -> PatientCounts:
        with one_torch_thread():
            return measure(open_run(run), self.cohort, task_of(self.settings.study))


def _note(name: str) -> str:
    return f"trained at one place on {name} images, to measure what made ones bring."


def _as_long(study: Study, times: float) -> Study:
    """With so many times the rounds, at least one: all classifiers see as many examples."""
    rounds = max(1, math.ceil(study.training.rounds * times))
    average = min(study.training.average_last, rounds)
    training = study.training.model_copy(update={"rounds": rounds, "average_last": average})
    return study.model_copy(update={"training": training})


def _said(
    run: FinishedRun,
    asked: EffectSettings,
    found: dict[str, dict[str, dict[str, Values]]],
    numbers: dict[str, int],
    patients: int,
) -> dict[str, Any]:
    shown = [name for name in METRICS if name in found[FEW][ALL] and name not in NO_SCORES]
    differences = {
        name: interval(found[ADDED][ALL][name] - found[FEW][ALL][name], patients) for name in shown
    }
    return {
        "study": asked.settings.study.study.name,
        "generator": said_of(run.study),
        "command": asked.command,
        "share": asked.share,
        "made": asked.count,
        "seeds": list(asked.seeds),
        "draws": DRAWS,
        "patients": patients,
        "shown": shown,
        "trained_on": {
            name: {
                "examples": numbers[name],
                "metrics": {
                    metric: asdict(interval(scopes[ALL][metric], patients)) for metric in shown
                },
            }
            for name, scopes in found.items()
        },
        "added_minus_real": {name: asdict(one) for name, one in differences.items()},
        "verdicts": {name: verdict_of(one) for name, one in differences.items()},
    }
