"""A comparison from the study file to its table."""

import json

import numpy as np
import pytest
from federations import arrays_of
from hospitals import write_hospital
from typer.testing import CliRunner

from wardround_shared.errors import NotEnoughSitesError, PrivacyError, StudyError
from wardround_shared.study import load_study
from wardround_simulations import cli
from wardround_simulations.comparison import compare as module
from wardround_simulations.comparison.compare import CompareSettings, compare
from wardround_simulations.comparison.splits import read_splits
from wardround_simulations.comparison.ways import studies_of
from wardround_simulations.federation import simulate
from wardround_simulations.settings import Settings
from wardround_simulations.steps import Parts


class Unwatched:
    def planned(self, steps):
        self.steps = steps
        self.begun = []

    def begin(self, what, parts):
        self.begun.append(what)
        return Parts(lambda _: None)


def asked(study_file, data, out, *overrides, repeats=1, number=20, **keys):
    overrides = ["training.rounds=2", *overrides]
    settings = {
        "study": load_study(study_file, overrides),
        "data": data,
        "sites": None,
        "backend": "inline",
        "workers": 1,
        "device": "cpu",
        "out": out,
        "seed": 4,
        "cache": out.parent / "cache",
    }
    return CompareSettings(
        studies=studies_of(study_file, overrides),
        settings=Settings(**(settings | keys)),
        repeats=repeats,
        number=number,
    )


@pytest.fixture
def one_hospital(tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    write_hospital(folder / "north.csv", seed=0, rows=140)
    return folder


def of(result, way):
    return next(one for one in result["ways"] if one["way"] == way)


def test_all_ways_are_trained_and_measured_on_the_same_patients(study_file, hospitals, tmp_path):
    watcher, out = Unwatched(), tmp_path / "out"
    result = compare(asked(study_file, hospitals, out, noise_seed=1), watcher)
    assert result == json.loads((out / "compare.json").read_text())
    ways = ["pooled", "alone/north", "alone/south", "alone/west", "federated", "federated-dp"]
    assert [way["way"] for way in result["ways"]] == ways
    assert len(watcher.begun) == watcher.steps == 7
    assert "INJECTED" in " ".join(result["notes"])
    for way in result["ways"]:
        assert set(way["per_site"]) == {"north", "south", "west"}
        auroc = way["metrics"]["auroc"]
        assert auroc["low"] <= auroc["value"] <= auroc["high"]
    # The same figures as the run's own, from the counts that its sites have summed.
    for key in ("federated", "federated-dp"):
        (run,) = of(result, key)["runs"]
        summary = json.loads(((tmp_path / run) / "summary.json").read_text())
        for metric in ("auroc", "accuracy", "f1_macro"):
            assert of(result, key)["metrics"][metric]["value"] == pytest.approx(
                summary["metrics"][metric]
            )
        assert summary["sites"] == 3


def test_runs_in_one_place_are_no_federated_runs(study_file, hospitals, tmp_path):
    out = tmp_path / "out"
    compare(asked(study_file, hospitals, out, "privacy.mechanism=none"), Unwatched())
    for way in ("pooled", "alone-north"):
        summary = json.loads((out / "seed-4" / way / "summary.json").read_text())
        assert any("no federated run" in note for note in summary["notes"])
        assert summary["sites"] == 1
        assert not summary["secure_aggregation"]
        assert summary["privacy"]["epsilon"] == {}
    pooled = json.loads((out / "seed-4" / "pooled" / "summary.json").read_text())
    assert pooled["cohorts"]["all sites"]["train"] == 144


def test_each_way_fits_its_preprocessing_on_what_it_may_see(study_file, hospitals, tmp_path):
    out = tmp_path / "out"
    compare(asked(study_file, hospitals, out, "privacy.mechanism=none"), Unwatched())
    mean = {
        way: arrays_of(out / "seed-4" / way)["preprocessing.1.mean"]
        for way in ("pooled", "alone-north", "alone-south", "federated")
    }
    np.testing.assert_allclose(mean["pooled"], mean["federated"])
    assert not np.allclose(mean["alone-north"], mean["alone-south"])
    assert not np.allclose(mean["alone-north"], mean["pooled"])


def test_pooled_with_one_site_is_that_site_alone(study_file, one_hospital, tmp_path):
    out = tmp_path / "out"
    overrides = ("privacy.mechanism=none", "aggregation.minimum-sites=1")
    result = compare(asked(study_file, one_hospital, out, *overrides), Unwatched())
    pooled, alone, joined = (
        arrays_of(out / "seed-4" / way) for way in ("pooled", "alone-north", "federated")
    )
    for name in pooled:
        np.testing.assert_array_equal(pooled[name], alone[name])
        np.testing.assert_array_equal(pooled[name], joined[name])
    change = next(one for one in result["differences"] if one["site"] == "north")
    assert change["metrics"]["auroc"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert change["verdicts"]["auroc"] == "cannot be told"


def test_a_comparison_is_repeated_by_its_seed(study_file, hospitals, tmp_path):
    def figures(name):
        settings = asked(study_file, hospitals, tmp_path / name, noise_seed=1, repeats=2)
        result = compare(settings, Unwatched())
        return [(way["metrics"], way["by_seed"]) for way in result["ways"]]

    first = figures("a")
    assert first == figures("b")
    for metrics, by_seed in first:
        assert metrics["auroc"]["value"] == pytest.approx(np.mean(by_seed["auroc"]))
        assert len(set(by_seed["loss"])) == 2


def test_a_site_that_cannot_train_alone_says_why(study_file, hospitals, tmp_path, monkeypatch):
    def failing(settings, observer, **more):
        if settings.out.name == "alone-west":
            raise NotEnoughSitesError("The site has diverged.")
        return simulate(settings, observer, **more)

    monkeypatch.setattr(module, "simulate", failing)
    out = tmp_path / "out"
    result = compare(asked(study_file, hospitals, out, "privacy.mechanism=none"), Unwatched())
    assert of(result, "alone/west")["failed"] == "The site has diverged."
    assert of(result, "alone/west")["metrics"] == {}
    assert {one["site"] for one in result["differences"]} == {None, "north", "south"}
    assert "The site has diverged." in (out / "comparison.md").read_text()


class TestRefusals:
    def test_nothing_is_trained_where_the_private_way_would_fail(
        self, study_file, hospitals, tmp_path
    ):
        out = tmp_path / "out"
        with pytest.raises(PrivacyError, match="No noise is enough"):
            compare(asked(study_file, hospitals, out, "privacy.epsilon=0.003"), Unwatched())
        assert not out.exists()

    def test_too_few_sites(self, study_file, one_hospital, tmp_path):
        with pytest.raises(NotEnoughSitesError):
            compare(asked(study_file, one_hospital, tmp_path / "out"), Unwatched())
        assert not (tmp_path / "out").exists()

    def test_private_settings_that_change_who_is_scored(self, study_file, hospitals, tmp_path):
        """Another fraction moves patients from one side to the other."""
        study_file.write_text(
            study_file.read_text() + "\n[private.data]\nvalidation-fraction = 0.4\n"
        )
        with pytest.raises(StudyError, match="the same patients"):
            compare(asked(study_file, hospitals, tmp_path / "out"), Unwatched())

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--repeat", "2"], "--repeat: it repeats a comparison"),
            (["--compare", "--homes", "homes"], "--compare and --homes"),
            (["--compare", "--out", "."], "this folder exists already"),
        ],
    )
    def test_wrong_combinations_of_options(self, study_file, hospitals, options, said):
        line = ["simulate", str(study_file), "--data", str(hospitals), "--backend", "inline"]
        line += ["--cache", str(hospitals.parent / "cache"), *options]
        done = CliRunner().invoke(cli.app, line, catch_exceptions=False)
        assert done.exit_code == 1
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


class TestSplits:
    @pytest.mark.parametrize("sites", [None, 2, 5])
    def test_all_ways_have_the_same_patients_on_the_same_sides(
        self, study_file, hospitals, tmp_path, sites
    ):
        """Also where the private form prepares the data otherwise."""
        steps = 'steps = [{ name = "impute", indicator = false }, { name = "one-hot" }]'
        study_file.write_text(
            study_file.read_text()
            + f"\n[private.preprocessing]\n{steps}\n[private.model]\nhidden=[]\n"
        )
        settings = asked(study_file, hospitals, tmp_path / "out", sites=sites)
        plain, private = read_splits(settings.settings, settings.studies)
        assert plain.scored is plain.trained
        for one, other in zip(plain.trained.cohorts, private.trained.cohorts, strict=True):
            np.testing.assert_array_equal(one.patients[one.train], other.patients[other.train])
            np.testing.assert_array_equal(
                one.patients[one.validation], other.patients[other.validation]
            )

    def test_thinned_patients_are_scored_with_all_their_examples(
        self, study_file, hospitals, tmp_path
    ):
        for file in hospitals.glob("*.csv"):
            head, *rows = file.read_text().splitlines()
            file.write_text("\n".join([head, *rows, *rows]) + "\n")
        study_file.write_text(
            study_file.read_text().replace(
                'source = "table"', 'source = "table"\nmax-per-patient = 1'
            )
        )
        settings = asked(study_file, hospitals, tmp_path / "out", "privacy.mechanism=none")
        plain, private = read_splits(settings.settings, settings.studies)
        assert private is None
        for trained, scored in zip(plain.trained.cohorts, plain.scored.cohorts, strict=True):
            assert len(scored.validation) == 2 * len(trained.validation)
