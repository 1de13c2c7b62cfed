"""Pictures of what a model looks at: known answers of small networks, and whole commands."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from trained import IMAGES, RECORDS, TAIL, trained, write_images, write_records
from typer.testing import CliRunner

from wardround_simulations import cli
from wardround_simulations.evaluation import open_run
from wardround_simulations.explaining import attribution
from wardround_simulations.explaining.attribution import attribute
from wardround_simulations.explaining.permutation import importances

captum = pytest.importorskip("captum", reason="the extra explain is not installed")

# Of captum and what it imports.
pytestmark = pytest.mark.filterwarnings("ignore")


def explain(*arguments):
    done = CliRunner().invoke(cli.app, ["explain", *map(str, arguments)], catch_exceptions=False)
    return done, done.stderr.splitlines()


def bright(row, column, size=16):
    image = torch.zeros(1, 1, size, size)
    image[..., row : row + 4, column : column + 4] = 1.0
    return image


class Brightness(nn.Module):
    """Output 1 is the largest brightness of a neighbourhood, output 0 its negative."""

    def __init__(self):
        super().__init__()
        self.look = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        nn.init.ones_(self.look.weight)

    def forward(self, main):
        found = torch.relu(self.look(main)).mean(dim=(1, 2, 3))
        return torch.stack([-found, found], dim=1)


def test_gradients_of_a_linear_model_are_weight_times_value():
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    signal = torch.arange(6.0).reshape(1, 2, 3)
    found = attribute(model, (signal,), 1)
    expected = (model[1].weight[1] * signal.reshape(6)).detach().numpy().reshape(2, 3)
    assert np.allclose(found.gradients, expected, atol=1e-5)
    assert found.missing < 1e-3
    assert found.heat is None
    assert found.beside == 0.0


@pytest.mark.parametrize("place", [(1, 2), (10, 4), (6, 11)])
def test_heat_and_gradients_lie_where_the_answer_comes_from(place):
    row, column = place
    found = attribute(Brightness(), (bright(row, column),), 1)
    inside = np.zeros((16, 16), dtype=bool)
    inside[max(row - 1, 0) : row + 5, max(column - 1, 0) : column + 5] = True
    assert found.heat[inside].sum() > 0.99 * found.heat.sum() > 0
    assert found.gradients[0][inside].sum() == pytest.approx(found.gradients.sum())
    assert found.gradients.sum() > 0
    against = attribute(Brightness(), (bright(row, column),), 0)
    assert against.gradients.sum() < 0
    assert not against.heat.any()


def test_columns_that_the_model_does_not_use_have_no_importance(study_file, hospitals, tmp_path):
    text = study_file.read_text().replace("hidden = [8]\ndropout = 0.1", "hidden = []")
    run = open_run(trained(text, hospitals, tmp_path, "privacy.mechanism=none"))
    with torch.no_grad():
        (weight,) = (p for p in run.module.parameters() if p.ndim == 2)
        weight.zero_()
        weight[1, 1] = 1.0  # pressure
    metric, whole, found = importances(run, hospitals, tmp_path / "cache")
    assert metric == "auroc"
    assert found[0].column == "pressure"
    assert found[0].least > 0.1
    assert whole - found[0].mean == pytest.approx(0.5, abs=0.1)
    assert {one.mean for one in found[1:]} == {0.0}


def test_images_become_pictures_and_what_cannot_be_read_is_told(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    files = write_images(folder)
    run = trained(IMAGES + TAIL, folder, tmp_path)
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"no image")
    out = tmp_path / "out"
    done, said = explain(run, files[0][0], torn, files[1][0], "--class", "present", "--out", out)
    assert done.exit_code == 1
    assert said == [f"error: {torn}: the file is not a PNG or JPEG image."]
    assert sorted(file.name for file in out.iterdir()) == ["001-0.png.png", "003-1.png.png"]
    for file in out.iterdir():
        with Image.open(file) as picture:
            assert picture.size[0] > 1000
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    done, said = explain(run, files[0][0], "--out", out)
    assert done.exit_code == 1
    assert "not empty" in said[0]


def test_signals_become_pictures_with_a_trace_a_lead(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    files = write_records(data)
    run = trained(RECORDS + TAIL, data, tmp_path)
    out = tmp_path / "out"
    table = ("--columns", data / "records.csv", "--json")
    done, _ = explain(run, files[0][0], "--out", out, *table)
    assert done.exit_code == 0, done.stderr
    (picture,) = json.loads(done.stdout)["pictures"]
    assert "in the columns beside the signal" in picture["said"]
    assert (out / "001-r0.png").is_file()


def test_what_does_not_fit_is_one_sentence(study_file, hospitals, tmp_path, monkeypatch):
    run = trained(study_file.read_text(), hospitals, tmp_path, "privacy.mechanism=none")
    table = hospitals / "north.csv"
    for arguments, sentence in (
        ((run,), "Name images or signals to explain"),
        ((run, table, "--data", hospitals), "Name images or signals to explain"),
        ((run, "--data", hospitals, "--class", "present"), "--class: it goes with images"),
        ((run, "--data", hospitals, "--columns", table), "--columns: it goes with images"),
        ((run, table), "A table has no picture of its own"),
        ((run, "--data", tmp_path / "no"), "there is no such data folder"),
    ):
        done, said = explain(*arguments, "--out", tmp_path / "out")
        assert done.exit_code == 1
        assert len(said) == 1
        assert sentence in said[0]
        assert not (tmp_path / "out").exists()
    monkeypatch.setattr(attribution, "find_spec", lambda _: None)
    _, said = explain(run, table, "--out", tmp_path / "out")
    assert "wardround[explain]" in said[0]
