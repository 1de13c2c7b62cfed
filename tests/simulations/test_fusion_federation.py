"""Late fusion: a federation learns from images and from the columns beside them."""

import io

import numpy as np
import pytest
from federations import Silent, settings_of
from PIL import Image

from wardround_simulations.evaluation import open_run
from wardround_simulations.federation import simulate
from wardround_simulations.prediction.prediction import predict_inputs

STUDY = """
[study]
name = "fusion"
task = "image-classification"
classes = ["absent", "present"]
[data]
source = "images"
table = ["labels.csv"]
file = "file"
label = { column = "finding" }
patient = "file"
site = { column = "site" }
validation-fraction = 0.3
static = [
    { column = "age" },
    { column = "sex", kind = "categorical", categories = ["F", "M"] },
]
[preprocessing]
steps = [
    { name = "impute" },
    { name = "standardise" },
    { name = "standardise", part = "static" },
    { name = "one-hot" },
    { name = "augment", flip = true },
]
[model]
name = "cnn"
width = 4
dense = 4
[training]
rounds = 6
local-epochs = 4
batch-size = 8
learning-rate = 0.3
[privacy]
mechanism = "dp-sgd"
"""


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """Three sites whose images say nothing: the class is told by the age alone."""
    folder = tmp_path_factory.mktemp("fusion")
    random = np.random.default_rng(3)
    table = io.StringIO()
    table.write("file,finding,site,age,sex\n")
    for number in range(90):
        sick = number % 2
        age = "" if number == 7 else str(40 + 30 * sick + random.integers(10))
        pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        finding = "present" if sick else "absent"
        table.write(f"{number}.png,{finding},s{number // 2 % 3},{age},{'FM'[number // 5 % 2]}\n")
    (folder / "labels.csv").write_text(table.getvalue())
    return folder


def test_a_federation_learns_from_the_columns_what_no_image_tells(tmp_path, hospitals):
    summary = run(tmp_path, hospitals, "privacy.mechanism=none")
    assert summary["metrics"]["auroc"] > 0.9
    require_answers(tmp_path, hospitals)


def test_the_columns_take_part_under_privacy_too(tmp_path, hospitals):
    summary = run(tmp_path, hospitals, "training.rounds=1", "training.local-epochs=1")
    assert set(summary["privacy"]["epsilon"].values()) != {None}


def run(folder, hospitals, *overrides):
    file = folder / "fusion.toml"
    file.write_text(STUDY)
    summary = simulate(settings_of(file, hospitals, folder / "run", *overrides), Silent())
    assert summary["status"] == "complete"
    assert not summary["dropped"]
    return summary


def require_answers(tmp_path, hospitals):
    """The kept model is asked with the cells of the file's own row, and without them not at all."""
    opened = open_run(tmp_path / "run")
    table = hospitals / "labels.csv"
    paths = [hospitals / f"{number}.png" for number in range(6, 30)]
    answers = list(predict_inputs(opened, paths, columns=table))
    sick = np.array([number % 2 for number in range(6, 30)])
    chances = np.array([one.values[1] for one in answers])
    assert np.mean((chances > 0.5) == sick) > 0.85
    (lacking,) = predict_inputs(opened, paths[:1])
    assert "the model takes age, sex beside the file" in lacking.why
    assert "--columns" in lacking.why
    stranger = tmp_path / "stranger.png"
    stranger.write_bytes(paths[0].read_bytes())
    (unknown,) = predict_inputs(opened, [stranger], columns=table)
    assert unknown.why == "no rows of labels.csv are of this record"
