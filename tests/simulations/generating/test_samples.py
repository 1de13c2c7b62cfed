"""Images of a finished run, as arrays, as a picture, and with a word on whence they are."""

import json

import numpy as np
import pytest
from federations import Silent, settings_of
from PIL import Image
from typer.testing import CliRunner

from wardround_client.cohort import build_cohorts
from wardround_shared.errors import RunError, RunFolderError
from wardround_shared.study import load_study
from wardround_simulations.cli import app
from wardround_simulations.evaluation import open_run
from wardround_simulations.federation import simulate
from wardround_simulations.generating.samples import Samples, draw_grid, made, sample, write_samples
from wardround_simulations.report import write_report


def test_as_many_of_each_class_and_the_same_for_the_same_seed(trained):
    run = open_run(trained)
    found = sample(run, 21, seed=3)
    assert found.images.shape == (21, 12, 12)
    assert found.images.dtype == np.uint8
    assert np.bincount(found.labels).tolist() == [11, 10]
    again, other = sample(run, 21, seed=3), sample(run, 21, seed=4)
    assert np.array_equal(found.images, again.images)
    assert not np.array_equal(found.images, other.images)


def test_pixels_are_what_the_generator_makes(trained):
    run = open_run(trained)
    values = made(run, np.array([0, 1]), seed=0)
    assert np.array_equal(sample(run, 2, seed=0).images, np.rint(values[:, 0] * 255))


def test_a_folder_can_be_read_as_the_studys_own_data(bars, trained, tmp_path):
    run = open_run(trained)
    write_samples(sample(run, 40, seed=0), run, tmp_path / "made", seed=0)
    study = load_study(bars / "bars.toml", ['data.images="*images"', 'data.label.column="*labels"'])
    read = build_cohorts(study, tmp_path / "made", cache=tmp_path / "cache")
    (cohort,) = read.cohorts
    assert sorted(np.bincount(cohort.targets).tolist()) == [20, 20]
    said = json.loads((tmp_path / "made" / "samples.json").read_text())
    assert said["study_id"] == run.study.study_id
    assert said["epsilon"] is None
    assert "copies" in said["made"]


def test_the_picture_has_rows_of_each_class(tmp_path):
    images = np.concatenate([np.full((20, 8, 8), 40), np.full((20, 8, 8), 200)]).astype(np.uint8)
    samples = Samples(images=images, labels=np.repeat([0, 1], 20))
    draw_grid(samples, ["dark", "bright"], tmp_path / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "grid.png").convert("L"))
    half = len(picture) // 2
    assert (picture[:half] == 40).sum() == (picture[half:] == 200).sum() == 20 * 56 * 56
    assert not (picture[:half] == 200).any()


def test_colours_stay(tmp_path):
    images = np.zeros((2, 9, 8, 3), np.uint8)
    images[..., 0] = 250
    draw_grid(Samples(images=images, labels=np.array([0, 0])), ["red"], tmp_path / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert (picture == [250, 0, 0]).all(axis=2).sum() == 2 * (9 * 7) * (8 * 7)


def test_nothing_is_overwritten(trained, tmp_path):
    run = open_run(trained)
    (tmp_path / "made").mkdir()
    with pytest.raises(RunFolderError, match="exists already"):
        write_samples(sample(run, 2, seed=0), run, tmp_path / "made", seed=0)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class TestCommand:
    def test_it_writes_a_folder_and_says_what_may_be_in_it(self, trained, tmp_path):
        done = invoke("generate", trained, "--out", tmp_path / "made", "--count", 6)
        assert done.exit_code == 0, done.output
        assert "privacy: NONE (mechanism = none)" in done.output
        assert "may be copies" in done.output
        assert sorted(file.name for file in (tmp_path / "made").iterdir()) == [
            "samples.json",
            "samples.npz",
            "samples.png",
        ]
        assert len(np.load(tmp_path / "made" / "samples.npz")["samples_images"]) == 6

    def test_wrong_input_is_one_sentence(self, trained, tmp_path):
        for arguments, said in (
            ((tmp_path, "--out", tmp_path / "a"), "no run folder"),
            ((trained, "--out", tmp_path), "exists already"),
            ((trained, "--out", tmp_path / "a", "--data", tmp_path), "--effect-on"),
            ((trained, "--out", tmp_path / "a", "--share", "0.5"), "--share: it goes with"),
            ((trained, "--out", tmp_path / "a", "--repeat", "2"), "--repeat: it goes with"),
            ((trained, "--out", tmp_path / "a", "--effect-on", "nothing"), "no such study"),
        ):
            done = invoke("generate", *arguments)
            assert done.exit_code == 1
            assert said in done.output
            assert done.output.count("error:") == 1


def test_a_model_that_makes_no_images_is_refused(trained):
    from dataclasses import replace

    run = open_run(trained)
    task = run.study.study.model_copy(update={"task": "image-classification"})
    other = replace(run, study=run.study.model_copy(update={"study": task}))
    with pytest.raises(RunError, match="makes no images"):
        sample(other, 2, seed=0)


def test_where_the_noise_is_known_nothing_is_called_private(bars, tmp_path):
    """Whoever has the seed can take the noise away again."""
    out = tmp_path / "run"
    private = ("privacy.mechanism=dp-sgd", "training.rounds=1")
    simulate(settings_of(bars / "bars.toml", bars, out, *private, noise_seed=3), Silent())
    done = invoke("generate", out, "--out", tmp_path / "made", "--count", 4)
    assert "injected for a test" in done.output
    said = json.loads((tmp_path / "made" / "samples.json").read_text())
    assert said["epsilon"] is None
    assert "copies" in said["made"]
    assert "WITHOUT differential privacy" in write_report(out).read_text().split("Made images")[1]


def test_with_noise_of_the_system_it_says_what_epsilon_bounds(bars, tmp_path):
    out = tmp_path / "run"
    private = ("privacy.mechanism=dp-sgd", "training.rounds=1")
    simulate(settings_of(bars / "bars.toml", bars, out, *private), Silent())
    done = invoke("generate", out, "--out", tmp_path / "made", "--count", 4)
    assert "NONE" not in done.output
    said = json.loads((tmp_path / "made" / "samples.json").read_text())
    assert (said["epsilon"], said["not_private"]) == (8.0, None)
    assert "may look like a patient" in write_report(out).read_text()


def test_a_disk_that_is_full_leaves_no_images_without_their_origin(trained, tmp_path, monkeypatch):
    def full(*_args, **_named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wardround_simulations.generating.samples.draw_grid", full)
    run = open_run(trained)
    with pytest.raises(RunFolderError, match="No space left"):
        write_samples(sample(run, 2, seed=0), run, tmp_path / "a", seed=0)
    assert (tmp_path / "a" / "samples.json").is_file()
