"""What made images bring: who is trained on what, and that the figures are theirs."""

import io
import json

import numpy as np
import pytest
from federations import settings_of
from typer.testing import CliRunner

from wardround_shared.errors import StudyError
from wardround_shared.study import load_study
from wardround_simulations.cli import app
from wardround_simulations.evaluation import open_run
from wardround_simulations.generating.effect import EffectSettings, effect
from wardround_simulations.generating.mixing import Made, mixed, share_of
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
        seen = {}
        for name, examples in trained_on.items():
            run = out / "seed-4" / name.replace(" ", "-")
            study = load_study(run / "study.toml")
            assert not study.privacy.private
            seen[name] = study.training.rounds * examples
            # Noise or not, whose images they were is not in a run folder.
            assert not list(run.rglob("*.npy"))
        least = 2 * (real + 30)
        assert all(least <= n < least + trained_on[name] for name, n in seen.items())
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
        assert "without differential privacy, so that" in done.output
