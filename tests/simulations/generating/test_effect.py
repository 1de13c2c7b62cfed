"""What made images bring: who is trained on what, and that the figures are theirs."""

import io
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from federations import settings_of
from typer.testing import CliRunner

from wardround_shared.errors import DataError, StudyError
from wardround_shared.study import load_study
from wardround_simulations.cli import app
from wardround_simulations.evaluation import open_run
from wardround_simulations.generating.effect import EffectSettings, effect
from wardround_simulations.generating.mixing import Made, mixed, share_of, short_lived_folder
from wardround_simulations.generating.unseen import require_unseen, with_split_of
from wardround_simulations.steps import Lines
from wardround_simulations.virtual_sites import read_cohorts

CLASSIFIER = """
[study]
name = "which-bar"
task = "image-classification"
classes = ["lying", "standing"]
[data]
source = "images"
arrays = ["*.npz"]
images = "images"
label = { column = "labels", values = { lying = ["0"], standing = ["1"] } }
site = { file = "(.+)[.]npz" }
[preprocessing]
steps = [{ name = "standardise" }]
[model]
name = "cnn"
width = 4
dense = 8
[training]
rounds = 2
batch-size = 16
learning-rate = 0.05
[privacy]
mechanism = "dp-sgd"
"""


@pytest.fixture
def classifier(tmp_path):
    file = tmp_path / "which-bar.toml"
    file.write_text(CLASSIFIER)
    return file


@pytest.fixture
def cohort(bars, tmp_path):
    settings = settings_of(bars / "bars.toml", bars, tmp_path / "out", sites=1)
    return read_cohorts(settings).cohorts[0]


class TestMixing:
    def test_a_share_is_of_patients_and_smaller_ones_are_in_larger_ones(self, cohort):
        tenth, third = share_of(cohort, 0.1, 0), share_of(cohort, 1 / 3, 0)
        patients = len(np.unique(cohort.patients[cohort.train]))
        assert len(np.unique(cohort.patients[tenth])) == round(patients / 10)
        assert set(tenth) < set(third) < set(cohort.train)
        assert set(tenth) != set(share_of(cohort, 0.1, 1))
        assert len(share_of(cohort, 0.0001, 0)) == 1

    def test_made_images_join_the_training_and_nobody_elses_validation(self, cohort, tmp_path):
        new = Made(images=np.full((3, 1, 12, 12), 0.5, np.float32), labels=np.array([0, 1, 1]))
        rows = cohort.train[:4]
        (made,) = mixed(cohort, rows, new, tmp_path / "mixed", "a note").cohorts
        assert len(made.train) == 7
        assert np.array_equal(made.arrays[0][made.train[:4]], cohort.arrays[0][rows])
        assert np.array_equal(made.arrays[0][made.train[4:]], new.images)
        assert made.targets[made.train[4:]].tolist() == [0, 1, 1]
        assert np.array_equal(made.arrays[0][made.validation], cohort.arrays[0][cohort.validation])
        codes = made.patients[made.train[4:]]
        assert len(set(codes) | set(cohort.patients)) == 3 + len(set(cohort.patients))
        assert (tmp_path / "mixed").stat().st_mode & 0o777 == 0o700


class TestEffect:
    def asked(self, file, bars, tmp_path, *overrides, **changed):
        study = load_study(file, ["privacy.mechanism=none", *overrides])
        settings = settings_of(file, bars, tmp_path / "unused")
        settings = type(settings)(**{**vars(settings), "study": study, "out": None})
        return EffectSettings(
            settings=settings, **({"share": 0.2, "count": 30, "repeats": 2} | changed)
        )

    def test_four_classifiers_a_seed_see_as_many_examples(
        self, bars, trained, classifier, tmp_path
    ):
        out = tmp_path / "effect"
        watcher = Lines(io.StringIO())
        asked = self.asked(classifier, bars, tmp_path)
        result = effect(open_run(trained), asked, out, watcher)
        trained_on = {name: one["examples"] for name, one in result["trained_on"].items()}
        real = trained_on["real"]
        assert trained_on == {
            "real": real,
            "real and made": real + 30,
            "made": 30,
            "all real": trained_on["all real"],
        }
        passes = {name: one["passes"] for name, one in result["trained_on"].items()}
        assert passes["real and made"] == 2
        least = 2 * (real + 30)
        for name, examples in trained_on.items():
            assert least <= passes[name] * examples < least + examples
        # Neither a run nor a patient's image is left behind.
        assert sorted(file.name for file in out.iterdir()) == ["effect.json", "effect.md"]
        assert json.loads((out / "effect.json").read_text()) == result
        assert not list((tmp_path / "cache").rglob(".mixed-*"))
        assert "are added: " in (out / "effect.md").read_text()

    def test_the_difference_is_of_the_same_patients(self, bars, trained, classifier, tmp_path):
        result = effect(
            open_run(trained),
            self.asked(classifier, bars, tmp_path, repeats=1),
            tmp_path / "effect",
            Lines(io.StringIO()),
        )
        of = {name: one["metrics"]["auroc"]["value"] for name, one in result["trained_on"].items()}
        found = result["added_minus_real"]["auroc"]
        assert found["value"] == pytest.approx(of["real and made"] - of["real"])
        assert found["low"] <= found["value"] <= found["high"]

    @pytest.mark.parametrize(
        "wrong",
        [
            ('study.classes=["standing", "lying"]', "in this order"),
            ('preprocessing.steps=[{name="resize", size=[10, 10]}]', "decoded in another way"),
        ],
    )
    def test_a_classifier_that_sees_images_in_another_way_is_refused(
        self, bars, trained, classifier, tmp_path, wrong
    ):
        override, said = wrong
        asked = self.asked(classifier, bars, tmp_path, override)
        with pytest.raises(StudyError, match=said):
            effect(open_run(trained), asked, tmp_path / "effect", Lines(None))
        assert not (tmp_path / "effect").exists()

    def test_the_command_prints_the_table(self, bars, trained, classifier, tmp_path):
        done = CliRunner().invoke(
            app,
            [
                *("generate", str(trained), "--out", str(tmp_path / "effect"), "--count", "20"),
                *("--effect-on", str(classifier), "--data", str(bars), "--repeat", "1"),
                *("--cache", str(tmp_path / "cache")),
            ],
        )
        assert done.exit_code == 0, done.output
        assert "made ones are added" in done.output.replace("\n", " ")
        assert "without protection, so that" in done.output.replace("\n", " ")

    def test_a_number_of_steps_gives_way_to_passes(self, bars, trained, classifier, tmp_path):
        asked = self.asked(classifier, bars, tmp_path, "training.local-steps=3", repeats=1)
        result = effect(open_run(trained), asked, tmp_path / "effect", Lines(io.StringIO()))
        seen = [one["passes"] * one["examples"] for one in result["trained_on"].values()]
        assert max(seen) < 2 * min(seen)

    def test_interrupted_it_leaves_nothing(self, bars, trained, classifier, tmp_path, monkeypatch):
        def interrupted(*_args, **_named):
            assert list((tmp_path / "cache").rglob(".mixed-*/*/part-0.npy"))
            raise KeyboardInterrupt

        monkeypatch.setattr("wardround_simulations.generating.effect.simulate", interrupted)
        asked = self.asked(classifier, bars, tmp_path)
        with pytest.raises(KeyboardInterrupt):
            effect(open_run(trained), asked, tmp_path / "effect", Lines(io.StringIO()))
        assert not list((tmp_path / "cache").rglob(".mixed-*"))
        assert not (tmp_path / "effect").exists()


class TestUnseen:
    def test_nobody_is_measured_on_whom_the_generator_was_trained(self, bars, tmp_path):
        """Two names split the same patients in two ways; a split of its own would mix them."""
        (bars_file := tmp_path / "other.toml").write_text(CLASSIFIER)
        generator = load_study(bars / "bars.toml", ["data.validation-fraction=0.4"])
        own = load_study(bars_file, ["privacy.mechanism=none"])
        settings = settings_of(bars / "bars.toml", bars, tmp_path / "out", sites=1)
        theirs = self.cohort(settings, generator)
        learned = set(theirs.patients[theirs.train].tolist())
        apart = self.cohort(settings, own)
        assert not learned & set(apart.patients[apart.validation].tolist())  # other codes
        assert self.pixels(theirs, theirs.train) & self.pixels(apart, apart.validation)
        shared = self.cohort(settings, with_split_of(generator, own))
        assert not self.pixels(theirs, theirs.train) & self.pixels(shared, shared.validation)
        require_unseen(generator, settings, shared)
        with pytest.raises(StudyError, match="tell patients apart"):
            require_unseen(generator, settings, apart)

    def test_data_that_the_generators_study_cannot_read_are_refused(self, bars, tmp_path):
        generator = load_study(bars / "bars.toml", ['data.images="nothing"'])
        settings = settings_of(bars / "bars.toml", bars, tmp_path / "out", sites=1)
        with pytest.raises(StudyError, match="whom the generator has seen"):
            require_unseen(generator, settings, self.cohort(settings, settings.study))

    def cohort(self, settings, study):
        return read_cohorts(replace(settings, study=study)).cohorts[0]

    def pixels(self, cohort, rows):
        return {cohort.arrays[0][row].tobytes() for row in rows}


class TestShortLivedFolder:
    def test_what_killed_processes_have_left_is_removed(self, tmp_path):
        left = tmp_path / ".mixed-999999999-abc"
        left.mkdir()
        running = tmp_path / f".mixed-{os.getpid()}-abc"
        running.mkdir()
        with short_lived_folder(tmp_path) as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
            assert not left.exists()
            assert running.exists()
        assert not folder.exists()

    def test_a_place_that_cannot_be_written_is_one_sentence(self, tmp_path):
        with (
            pytest.raises(DataError, match="cannot be laid together"),
            short_lived_folder(tmp_path / "nothing"),
        ):
            pass
