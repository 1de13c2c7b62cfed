"""A search for better hyper-parameters, from the space to the study that is best."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from wardround_client.cohort import CohortSet
from wardround_server.run_folder import RunFolder
from wardround_shared.errors import RunError, RunFolderError, StudyError, UnsupportedError
from wardround_shared.study import Study, load_study, study_text
from wardround_simulations.metric_names import METRICS, NO_SCORES
from wardround_simulations.settings import Settings, default_run_folder
from wardround_simulations.steps import Watcher
from wardround_simulations.tuning.cost import Cost, Spent, cost_of
from wardround_simulations.tuning.folds import fold_cohorts
from wardround_simulations.tuning.halving import Rung, best_of, rungs
from wardround_simulations.tuning.space import Drawn, Space, default_space
from wardround_simulations.tuning.told import plot, tuning_text
from wardround_simulations.tuning.trial import Job, Score, run_jobs
from wardround_simulations.virtual_sites import check_privacy, check_sites, read_cohorts

RESULT, TEXT, PLOT, BEST = "tune.json", "tuning.md", "tuning.png", "best.toml"
"""Files of a search's folder."""

OWN = 0
"""Number of the trial that is the study as it stands."""

# Of everything else the decoded data, or what is promised, would be another.
_TUNABLE = ("training.", "model.")
_TUNABLE_OF_PRIVACY = "privacy.max-grad-norm"


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """What to search, and how.

    Attributes:
        file: of the study.
        overrides: `section.key=value` each, of all trials.
        settings: of each run; with the study as it stands.
        space: None takes the one derived from the study.
        trials: settings that are tried, the study's own among them.
        halving: give most rounds to the best only.
    """

    file: Path
    overrides: Sequence[str]
    settings: Settings
    space: Space | None
    trials: int
    folds: int
    halving: bool
    command: str = ""


@dataclass(kw_only=True)
class Trial:
    """One setting, and what is known of it.

    Attributes:
        scores: by rung, of each fold; None where the metric is undefined.
        failed: why it has no score in the last rung that it was in.
    """

    number: int
    drawn: Drawn
    study: Study
    scores: dict[int, list[float | None]] = field(default_factory=dict)
    failed: str = ""

    def mean(self, rung: int) -> float | None:
        """Over the folds where the metric is defined; None where nothing was trained."""
        defined = [one for one in self.scores.get(rung, []) if one is not None]
        return None if self.failed or not defined else sum(defined) / len(defined)


def tune(asked: TuneSettings, watcher: Watcher) -> dict[str, Any]:
    """Search, and return what stands in `tune.json`.

    1. draw all settings and refuse what is no study, 2. deal the training patients to folds,
    3. train and score rung by rung, 4. write the folder.

    Raises:
        WardroundError: of any kind. A setting that diverges is none: it has no score.
    """
    out = asked.settings.out or default_run_folder(f"{asked.settings.study.study.name}-tune")
    if out.exists():
        raise RunFolderError(f"{out}: this folder exists already; name another with --out.")
    if asked.settings.study.study.kind == "generation":
        raise UnsupportedError(
            "tune: made images have no score that goes by patient and that more of is better; look "
            "at samples.png of a few runs, and see what they bring with wardround generate "
            "--effect-on."
        )
    trials = _drawn(asked)
    cohorts = read_cohorts(asked.settings)
    check_sites(asked.settings.study, cohorts)
    check_privacy(asked.settings, cohorts)
    _make(out)
    folds = fold_cohorts(cohorts, asked.folds, asked.settings.seed)
    plan = rungs(asked.trials, halving=asked.halving)
    watcher.planned(len(plan))
    kept = [*(rung.settings for rung in plan[1:]), 1]
    # Here, because workers that are interrupted leave theirs.
    with TemporaryDirectory(prefix="wardround-tune-") as scratch:
        search = _Search(asked, trials, folds, Path(scratch), watcher)
        for place, rung in enumerate(plan):
            search.climb(place, rung, kept[place])
    result = _result(asked, plan, search, cohorts, out)
    folder = RunFolder(out)
    folder.write_json(RESULT, result)
    folder.write_text(TEXT, tuning_text(result))
    folder.write_text(BEST, study_text(trials[result["best"]].study))
    plot(result, out / PLOT)
    return result


def _make(out: Path) -> None:
    """Make the folder before the work, which would be lost without it."""
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise RunFolderError(
            f"{out}: cannot be made ({error.strerror}); see to the folder above it, or choose "
            "another one."
        ) from error


def _drawn(asked: TuneSettings) -> list[Trial]:
    """All settings, the study's own first.

    Raises:
        StudyError: a key that is not to be tuned, or a setting that makes no study.
    """
    space = asked.space or default_space(asked.settings.study)
    for key in space.keys:
        if not key.startswith(_TUNABLE) and key != _TUNABLE_OF_PRIVACY:
            raise StudyError(
                f"--space: {key}: only keys of [training] and [model], and {_TUNABLE_OF_PRIVACY}, "
                "can be searched; anything else would change the data or the promise."
            )
    random = np.random.default_rng(asked.settings.seed)
    points: list[Drawn] = [{}, *(space.draw(random) for _ in range(asked.trials - 1))]
    return [
        Trial(number=number, drawn=point, study=_study(asked, point))
        for number, point in enumerate(points)
    ]


def _study(asked: TuneSettings, point: Drawn) -> Study:
    return load_study(
        asked.file, [*asked.overrides, *(f"{key}={json.dumps(one)}" for key, one in point.items())]
    )


class _Search:
    """The rungs, one after the other."""

    def __init__(
        self,
        asked: TuneSettings,
        trials: Sequence[Trial],
        folds: Sequence[CohortSet],
        scratch: Path,
        watcher: Watcher,
    ) -> None:
        self.trials = trials
        self.left = [trial.number for trial in trials]
        self.metric = ""
        self.spent: list[tuple[int, Spent]] = []
        self._asked = asked
        self._folds = folds
        self._scratch = scratch
        self._watcher = watcher

    def climb(self, place: int, rung: Rung, kept: int) -> None:
        """Train and score all that are left, and leave the best `kept` of them."""
        jobs = [
            self._job(self.trials[number], fold, rung)
            for number in self.left
            for fold in range(len(self._folds))
        ]
        share = "all rounds" if rung.divisor == 1 else f"1/{rung.divisor} of the rounds"
        what = f"{len(self.left)} settings on {len(self._folds)} folds, {share}"
        parts = self._watcher.begin(what, len(jobs))
        scores = []
        for number, score in enumerate(run_jobs(jobs, self._asked.settings.workers), start=1):
            scores.append(score)
            parts.done(number)
        self._keep(place, scores)
        means = {number: self.trials[number].mean(place) for number in self.left}
        if all(mean is None for mean in means.values()):
            raise RunError(f"No setting could be trained and scored: {self._reason(scores)}")
        # The study's own settings are kept, so that the end says what the search has gained.
        always = [OWN] if kept > 1 else []
        self.left = best_of(means, kept, always=always)

    def _job(self, trial: Trial, fold: int, rung: Rung) -> Job:
        rounds = rung.rounds(trial.study.training.rounds)
        training = trial.study.training.model_copy(update={"rounds": rounds})
        study = trial.study.model_copy(update={"training": training})
        return Job(
            trial=trial.number,
            fold=fold,
            settings=replace(self._asked.settings, study=study),
            cohorts=[cohort.folder for cohort in self._folds[fold].cohorts],
            scratch=self._scratch,
        )

    def _keep(self, place: int, scores: Sequence[Score]) -> None:
        self.metric = self.metric or _metric(scores)
        for score in sorted(scores, key=lambda one: (one.trial, one.fold)):
            trial = self.trials[score.trial]
            trial.scores.setdefault(place, []).append(score.metrics.get(self.metric))
            trial.failed = trial.failed or score.failed
            self.spent.append((score.fold, score.spent))

    @staticmethod
    def _reason(scores: Sequence[Score]) -> str:
        failed = [score.failed for score in scores if score.failed]
        return failed[0] if failed else "no metric is defined on the folds; ask for fewer folds."


def _metric(scores: Sequence[Score]) -> str:
    """The first metric that is defined somewhere."""
    for metric in METRICS:
        if metric not in NO_SCORES and any(s.metrics.get(metric) is not None for s in scores):
            return metric
    return ""


# --- what is told ----------------------------------------------------------------------------


def _result(
    asked: TuneSettings,
    plan: Sequence[Rung],
    search: _Search,
    cohorts: CohortSet,
    out: Path,
) -> dict[str, Any]:
    study, last = asked.settings.study, len(plan) - 1
    (best,) = search.left
    cost = cost_of(search.spent, study.privacy.delta) if study.privacy.private else None
    patients = sum(len(np.unique(one.patients[one.train])) for one in cohorts.cohorts)
    return {
        "folder": str(out),
        "study": study.study.name,
        "study_id": study.study_id,
        "command": asked.command,
        "seed": asked.settings.seed,
        "folds": asked.folds,
        "patients": patients,
        "metric": search.metric,
        "search": "halving" if asked.halving else "random",
        "rungs": [asdict(rung) for rung in plan],
        "trials": [_said(trial) for trial in search.trials],
        "best": best,
        "best_study_id": search.trials[best].study.study_id,
        "over_own": _over_own(search.trials[best], search.trials[OWN], last),
        "privacy": None if cost is None else _cost_said(cost, study),
    }


def _said(trial: Trial) -> dict[str, Any]:
    reached = max(trial.scores)
    return {
        "trial": trial.number,
        "settings": trial.drawn,
        "rung": reached,
        "scores": {str(rung): scores for rung, scores in trial.scores.items()},
        "means": {str(rung): trial.mean(rung) for rung in trial.scores},
        "failed": trial.failed or None,
    }


def _over_own(best: Trial, own: Trial, rung: int) -> dict[str, Any] | None:
    """How the best does beside the study as it stands, fold by fold."""
    pairs = zip(best.scores.get(rung, []), own.scores.get(rung, []), strict=False)
    differences = [one - other for one, other in pairs if one is not None and other is not None]
    if best.number == OWN or not differences:
        return None
    return {
        "mean": sum(differences) / len(differences),
        "better": sum(one > 0 for one in differences),
        "folds": len(differences),
    }


def _cost_said(cost: Cost, study: Study) -> dict[str, Any]:
    return asdict(cost) | {"each": study.privacy.epsilon, "bound": "composition by RDP"}
