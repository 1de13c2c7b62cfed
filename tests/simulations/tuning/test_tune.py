"""A search from its space to the study file that is best."""

import json
from dataclasses import replace

import pytest
from federations import Silent, settings_of

from wardround_shared.errors import NotEnoughSitesError, RunError, RunFolderError, StudyError
from wardround_shared.study import load_study
from wardround_simulations.federation import simulate
from wardround_simulations.steps import Parts
from wardround_simulations.tuning import trial as module
from wardround_simulations.tuning.space import Choices, Range, Space
from wardround_simulations.tuning.told import sentences
from wardround_simulations.tuning.tune import TuneSettings, tune

PLAIN = ("privacy.mechanism=none", "training.rounds=6")
# A rate that learns, and one that cannot.
RATES = Space({"training.learning-rate": Choices(choices=(0.5, 0.4, 1e-6))})


class Unwatched:
    def planned(self, steps):
        self.begun = []

    def begin(self, what, parts):
        self.begun.append((what, parts))
        return Parts(lambda _: None)


def asked(study_file, hospitals, out, *overrides, **keys):
    overrides = overrides or (*PLAIN, "training.learning-rate=1e-6")
    values = {
        "file": study_file,
        "overrides": overrides,
        "settings": settings_of(study_file, hospitals, out, *overrides, workers=1),
        "space": RATES,
        "trials": 6,
        "folds": 2,
        "halving": True,
    }
    return TuneSettings(**(values | keys))


def test_the_settings_that_learn_are_found_and_written_as_a_study(study_file, hospitals, tmp_path):
    watcher, out = Unwatched(), tmp_path / "out"
    result = tune(asked(study_file, hospitals, out), watcher)
    assert result == json.loads((out / "tune.json").read_text())
    assert watcher.begun == [
        ("6 settings on 2 folds, 1/3 of the rounds", 12),
        ("2 settings on 2 folds, all rounds", 4),
    ]
    best = load_study(out / "best.toml")
    assert best.training.learning_rate in {0.4, 0.5}
    assert best.training.rounds == 6
    assert best.study_id == result["best_study_id"]
    assert result["over_own"]["mean"] > 0.1
    assert result["over_own"]["better"] == result["over_own"]["folds"] == 2
    assert (out / "tuning.png").read_bytes().startswith(b"\x89PNG")
    assert "training.learning-rate = 0." in (out / "tuning.md").read_text()
    # It is a study like any other.
    settings = settings_of(out / "best.toml", hospitals, tmp_path / "run")
    assert simulate(settings, Silent())["status"] == "complete"


def test_the_study_itself_gets_to_the_end(study_file, hospitals, tmp_path):
    """Though it is among the worst: the last rung says what the search has gained over it."""
    better = Space({"training.learning-rate": Choices(choices=(0.5, 0.4, 0.3))})
    search = asked(study_file, hospitals, tmp_path / "out", trials=7, space=better)
    result = tune(search, Unwatched())
    own = result["trials"][0]
    assert own["settings"] == {}
    assert own["rung"] == len(result["rungs"]) - 1


def test_a_search_is_repeated_by_its_seed(study_file, hospitals, tmp_path):
    def trials(name, **keys):
        search = asked(study_file, hospitals, tmp_path / name, *PLAIN, halving=False, trials=3)
        settings = replace(search.settings, **keys)
        space = Space({"training.learning-rate": Range(low=0.01, high=1.0, log=True)})
        return tune(replace(search, settings=settings, space=space), Unwatched())["trials"]

    first = trials("a")
    assert first == trials("b")
    assert first != trials("c", seed=9)


def test_what_tuning_would_cost_is_said_and_nothing_charged(study_file, hospitals, tmp_path):
    one_site = ("training.rounds=1", "aggregation.minimum-sites=1")
    search = asked(study_file, hospitals, tmp_path / "out", *one_site, trials=2)
    search = replace(search, settings=replace(search.settings, noise_seed=1, sites=1))
    cost = tune(search, Unwatched())["privacy"]
    assert (cost["trainings"], cost["each"]) == (2, 8.0)
    assert 8.0 < cost["epsilon"] < 16.0  # two of 8 together, and less than their sum
    plain = tune(asked(study_file, hospitals, tmp_path / "plain", trials=2), Unwatched())
    assert plain["privacy"] is None
    assert any("NONE" in sentence for sentence in sentences(plain))


class TestFailures:
    def failing(self, monkeypatch, at):
        def run(settings, observer, **more):
            if settings.study.training.learning_rate in at:
                raise RunError("The model has diverged.")
            return simulate(settings, observer, **more)

        monkeypatch.setattr(module, "simulate", run)

    def test_a_setting_that_diverges_is_told_and_not_chosen(
        self, study_file, hospitals, tmp_path, monkeypatch
    ):
        self.failing(monkeypatch, {0.5, 0.4})
        result = tune(asked(study_file, hospitals, tmp_path / "out"), Unwatched())
        assert result["trials"][result["best"]]["failed"] is None
        assert any("could not be trained" in sentence for sentence in sentences(result))

    def test_if_none_can_be_trained_there_is_no_best(
        self, study_file, hospitals, tmp_path, monkeypatch
    ):
        self.failing(monkeypatch, {0.5, 0.4, 1e-6})
        with pytest.raises(RunError, match=r"No setting .* diverged"):
            tune(asked(study_file, hospitals, tmp_path / "out"), Unwatched())


class TestRefusals:
    @pytest.mark.parametrize("key", ["data.label.column", "privacy.epsilon", "privacy.mechanism"])
    def test_keys_that_would_change_data_or_promise(self, study_file, hospitals, tmp_path, key):
        space = Space({key: Choices(choices=(1,))})
        with pytest.raises(StudyError, match="can be searched"):
            tune(asked(study_file, hospitals, tmp_path / "out", space=space), Unwatched())
        assert not (tmp_path / "out").exists()

    def test_a_point_that_is_no_study(self, study_file, hospitals, tmp_path):
        space = Space({"training.batch-size": Choices(choices=(-1,))})
        with pytest.raises(StudyError, match="batch-size"):
            tune(asked(study_file, hospitals, tmp_path / "out", space=space), Unwatched())
        assert not (tmp_path / "out").exists()

    def test_too_few_sites(self, study_file, hospitals, tmp_path):
        few = (*PLAIN, "aggregation.minimum-sites=4")
        with pytest.raises(NotEnoughSitesError):
            tune(asked(study_file, hospitals, tmp_path / "out", *few), Unwatched())

    def test_a_folder_that_is_there(self, study_file, hospitals, tmp_path):
        with pytest.raises(RunFolderError, match="exists already"):
            tune(asked(study_file, hospitals, tmp_path), Unwatched())
