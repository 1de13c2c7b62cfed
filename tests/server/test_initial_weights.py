"""Runs that start from weights of elsewhere."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from wardround_server.initial_weights import initial_said, read_weights, start_from_
from wardround_server.run_folder import INITIAL, RunFolder
from wardround_shared.errors import RunError
from wardround_shared.models import build_model
from wardround_shared.study import Backbone, Mlp

MLP = Mlp(name="mlp", hidden=(4,))


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run")


def network(outputs=2, seed=1):
    torch.manual_seed(seed)
    return build_model(MLP, ((3,),), outputs)


def saved(module, file):
    """As safetensors, or as torch does it."""
    arrays = module.state_dict()
    if file.suffix == ".safetensors":
        save_file({name: value.numpy() for name, value in arrays.items()}, file)
    else:
        torch.save(arrays, file)
    return file


def started(folder, file, module):
    folder.write_arrays(INITIAL, *read_weights(file))
    start_from_(module, folder)
    return initial_said(folder.path)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
def test_all_of_the_same_network_is_taken(tmp_path, folder, name):
    there, here = network(seed=1), network(seed=2)
    assert not same(there, here)
    said = started(folder, saved(there, tmp_path / name), here)
    assert same(there, here)
    assert (said["file"], said["taken"], said["fresh"]) == (name, 4, [])
    assert len(said["sha256"]) == 64


def test_the_last_layer_of_other_classes_starts_fresh(tmp_path, folder):
    there, here = network(outputs=5, seed=1), network(seed=2)
    last = {name: p.clone() for name, p in here.named_parameters()}
    said = started(folder, saved(there, tmp_path / "w.pt"), here)
    assert said["taken"] == 2
    names = list(last)
    assert said["fresh"] == names[2:]
    assert torch.equal(dict(here.named_parameters())[names[0]], next(iter(there.parameters())))
    assert all(torch.equal(dict(here.named_parameters())[name], last[name]) for name in names[2:])


@pytest.mark.parametrize("nested", ["state_dict", "model_state_dict", "model"])
def test_what_other_programs_put_around_it_is_taken_off(tmp_path, folder, nested):
    there, here = network(seed=1), network(seed=2)
    arrays = {f"module.{name}": value for name, value in there.state_dict().items()}
    torch.save({nested: arrays, "epoch": 7}, tmp_path / "w.pt")
    started(folder, tmp_path / "w.pt", here)
    assert same(there, here)


KNOWN = {
    "resnet18": {"conv1.weight", "bn1.bias", "layer2.0.downsample.1.weight", "layer4.1.bn2.bias"},
    "densenet121": {
        "features.conv0.weight",
        "features.denseblock4.denselayer16.conv2.weight",
        "features.transition1.norm.weight",
        "features.norm5.bias",
    },
}


@pytest.mark.parametrize("model", KNOWN)
def test_names_of_torchvision_fit_and_colours_are_summed(tmp_path, folder, model):
    torch.manual_seed(1)
    colour = build_model(Backbone(name=model), ((3, 32, 32),), 2)
    grey = build_model(Backbone(name=model), ((1, 32, 32),), 2)
    arrays = {
        name.removeprefix("network.").replace("layers.", "") if model == "densenet121"
        else name.removeprefix("network."): value
        for name, value in colour.state_dict().items()
        if not name.startswith("output.")
    }  # fmt: skip
    assert KNOWN[model] <= arrays.keys(), "these are the names that torchvision 0.28 has"
    arrays["bn1.running_mean"] = torch.zeros(64)
    arrays["bn1.num_batches_tracked"] = torch.tensor(3)
    torch.save(arrays, tmp_path / "w.pth")
    said = started(folder, tmp_path / "w.pth", grey)
    assert said["fresh"] == ["output.weight", "output.bias"]
    image = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(
        grey.network(image), colour.network(image.expand(2, 3, 32, 32)), rtol=1e-3, atol=1e-3
    )


def test_a_run_folder_stands_for_its_model(tmp_path, folder):
    there, here = network(seed=1), network(seed=2)
    run = RunFolder.create(tmp_path / "earlier")
    arrays = {name: value.numpy() for name, value in there.state_dict().items()}
    run.write_arrays("model.safetensors", arrays | {"preprocessing.0.mean": np.zeros(3)}, {})
    assert started(folder, run.path, here)["file"] == "model.safetensors"
    assert same(there, here)


def test_without_weights_nothing_changes(folder):
    here, before = network(), network()
    start_from_(here, folder)
    assert same(here, before)
    assert initial_said(folder.path) is None


def test_weights_of_another_network_are_refused(tmp_path, folder):
    saved(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(RunError, match=r"w\.pt, from which the run is to start, fit no array"):
        started(folder, tmp_path / "w.pt", network())


class Exploit:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (self.file, "w")


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("w.safetensors", b"", "cannot be read"),
        ("w.safetensors", b"\xff" * 50, "cannot be read"),
        ("w.pt", b"", "neither a safetensors file nor a state_dict"),
        ("w.pt", b"x" * 100, "neither a safetensors file nor a state_dict"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, name, content, fault):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=fault):
        read_weights(tmp_path / name)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(RunError, match=r"missing\.pt: there is no such file"):
        read_weights(tmp_path / "missing.pt")
    with pytest.raises(RunError, match=r"model\.safetensors: there is no such file"):
        read_weights(tmp_path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(RunError, match="no named arrays"):
        read_weights(tmp_path / "list.pt")
    torch.save({"epoch": torch.tensor(3)}, tmp_path / "none.pt")
    with pytest.raises(RunError, match="no weights"):
        read_weights(tmp_path / "none.pt")
    torch.save({"w": torch.tensor([1.0, float("nan")])}, tmp_path / "nan.pt")
    with pytest.raises(RunError, match="not finite"):
        read_weights(tmp_path / "nan.pt")


def test_nothing_in_a_file_is_executed(tmp_path):
    done = tmp_path / "done"
    torch.save({"w": Exploit(str(done))}, tmp_path / "w.pt")
    with pytest.raises(RunError, match="neither"):
        read_weights(tmp_path / "w.pt")
    assert not done.exists()


def test_what_it_started_from_is_kept_as_json(tmp_path, folder):
    started(folder, saved(network(), tmp_path / "w.pt"), network())
    assert json.loads((folder.path / "initial.json").read_text())["taken"] == 4
