"""An exported model gives the original's answers, says what it is, and is there whole or not."""

import json

import numpy as np
import pytest
import torch
from federations import Silent, settings_of
from pydantic import TypeAdapter
from typer.testing import CliRunner

from wardround_server.run_folder import RunFolder
from wardround_shared.errors import RunError, RunFolderError
from wardround_shared.network import build_network
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import Model, load_study
from wardround_simulations import cli, options
from wardround_simulations.evaluation import FinishedRun
from wardround_simulations.exporting import formats
from wardround_simulations.exporting.check import compare, made_up_inputs
from wardround_simulations.exporting.export import FORMATS, export_model
from wardround_simulations.exporting.identity import KEY, identity_of
from wardround_simulations.federation import simulate

# ONNX of a recurrent or deep network takes half a minute: `docs/using-a-model.md` says for which
# the comparison was made.
CASES = {
    "mlp": ("diabetes", {"name": "mlp", "hidden": [4]}, ((8,),)),
    "survival": ("survival-tcga-brca", {"name": "mlp", "hidden": []}, ((39,),)),
    "cnn": ("phantom", {"name": "cnn", "width": 4, "dense": 4}, ((1, 32, 32),)),
    "gru": ("arrhythmia", {"name": "gru", "hidden": 4, "dense": 4}, ((2, 110), (5,))),
    "cnn1d": ("ecg-findings", {"name": "cnn1d", "width": 4, "blocks": 1}, ((12, 200), (2,))),
}
SLOW = {("onnx", "gru")}


@pytest.fixture
def run(study_file, hospitals, tmp_path):
    """A private run."""
    simulate(settings_of(study_file, hospitals, tmp_path / "run", "training.rounds=1"), Silent())
    return tmp_path / "run"


def untrained(name):
    shipped, model, shapes = CASES[name]
    study = load_study(options.find_study(shipped))
    study = study.model_copy(update={"model": TypeAdapter(Model).validate_python(model)})
    recipe = Recipe(study)
    torch.manual_seed(0)
    module = build_network(study, recipe.output_shapes(shapes)).eval()
    fitted = tuple({} for _ in recipe.needs_fit)
    return FinishedRun(
        study=study, module=module, fitted=fitted, shapes=shapes, software="0.1.0", not_private=""
    )


def told(file, kind):
    """What a file says of itself, read with the format's own means."""
    if kind == "onnx":
        import onnx

        (prop,) = [one for one in onnx.load(file).metadata_props if one.key == KEY]
        return json.loads(prop.value)
    if kind == "safetensors":
        from safetensors import safe_open

        with safe_open(file, framework="numpy") as opened:
            return json.loads(opened.metadata()[KEY])
    extra = {f"{KEY}.json": ""}
    torch.export.load(file, extra_files=extra)
    return json.loads(extra[f"{KEY}.json"])


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_a_private_run_is_written_compared_and_described(run, hospitals, tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    out, cache = tmp_path / "model", tmp_path / "cache"
    done = export_model(run, kind, out, data=hospitals, cache=cache)
    assert not done.not_private
    assert done.difference.real
    assert done.difference.examples == 60
    assert done.difference.largest <= (1e-6 if kind == "onnx" else 0.0)
    said = told(out, kind)
    study = load_study(run / "study.toml")
    assert said["study_id"] == study.study_id
    assert said["classes"] == ["absent", "present"]
    assert said["inputs"] == {"main": ["batch", 6]}
    steps = {one["step"]: one for one in said["preprocessing"]["fitted"]}
    from wardround_simulations.evaluation import open_run

    fitted = open_run(run).fitted
    assert np.array_equal(steps["impute"]["mean"], fitted[0]["mean"])
    assert np.array_equal(steps["standardise"]["scale"], fitted[1]["scale"])
    assert not [name for name in tmp_path.iterdir() if "unfinished" in name.name]


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_every_kind_of_network_answers_alike_for_batches_of_any_size(tmp_path, kind, name):
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    if (kind, name) in SLOW:
        pytest.skip("takes half a minute; `wardround export` compares each time anyway")
    one = untrained(name)
    batches = made_up_inputs(one)
    assert {len(batch[0]) for batch in batches} == {1, 2, 7}
    file = tmp_path / "model"
    FORMATS[kind].write(one, tuple(part[:2] for part in batches[1]), identity_of(one), file)
    found = compare(one, FORMATS[kind].read(one, file), batches, real=False)
    assert found.largest < 1e-5


def test_a_file_that_answers_otherwise_is_not_kept(run, tmp_path, monkeypatch):
    class Wrong(formats.Weights):
        def read(self, run, file):
            return lambda inputs: run.module(*inputs) + 0.01

    monkeypatch.setitem(FORMATS, "safetensors", Wrong())
    with pytest.raises(RunError, match=r"differs from the original by 0\.01"):
        export_model(run, "safetensors", tmp_path / "model", data=None, cache=tmp_path / "cache")
    assert not [name for name in tmp_path.iterdir() if "model" in name.name]


def test_a_network_that_gives_nothing_finite_is_not_taken_for_equal(run, tmp_path, monkeypatch):
    class Silent(formats.Weights):
        def read(self, run, file):
            return lambda inputs: run.module(*inputs) * float("nan")

    monkeypatch.setitem(FORMATS, "safetensors", Silent())
    with pytest.raises(RunError, match="differs"):
        export_model(run, "safetensors", tmp_path / "model", data=None, cache=tmp_path / "cache")


def test_without_the_extra_onnx_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(RunError, match=r"onnx not installed .*wardround\[onnx\]"):
        export_model(tmp_path / "no", "onnx", tmp_path / "x", data=None, cache=tmp_path)


def test_nothing_is_overwritten_and_no_folder_is_made(run, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("mine")
    with pytest.raises(RunFolderError, match="exists already"):
        export_model(run, "safetensors", kept, data=None, cache=tmp_path)
    assert kept.read_text() == "mine"
    with pytest.raises(RunFolderError, match="cannot be written"):
        export_model(run, "safetensors", tmp_path / "no" / "x", data=None, cache=tmp_path)


def test_a_model_that_is_not_private_is_called_so(run, tmp_path):
    study = (run / "study.toml").read_text()
    assert "dp-sgd" in study
    out = tmp_path / "private"
    arguments = ["export", str(run), "--format", "safetensors", "--out", str(out)]
    assert "NONE" not in CliRunner().invoke(cli.app, arguments).output
    from wardround_server.run_folder import MODEL, read_model
    from wardround_shared.study import load_study, study_text

    open_study = load_study(run / "study.toml", ["privacy.mechanism=none"])
    arrays, metadata = read_model(run)
    folder = RunFolder(run)
    folder.write_text("study.toml", study_text(open_study))
    folder.write_arrays(MODEL, arrays, metadata | {"study_id": open_study.study_id})
    arguments[-1] = str(tmp_path / "open")
    assert "privacy: NONE" in CliRunner().invoke(cli.app, arguments).output
    assert told(tmp_path / "open", "safetensors")["private"] is False
