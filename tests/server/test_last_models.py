import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wardround_server.last_models import LastModels
from wardround_server.run_folder import CHECKPOINTS, RunFolder
from wardround_shared.errors import RunFolderError


def _folder(tmp_path):
    path = tmp_path / "run"
    return RunFolder(path) if path.exists() else RunFolder.create(path)


def _models(seed, number, size):
    random = np.random.default_rng(seed)
    scale = 10.0 ** random.integers(-8, 8, size=(number, size))
    return list((random.normal(size=(number, size)) * scale).astype(np.float32))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    number=st.integers(1, 12),
    length=st.integers(1, 9),
    size=st.sampled_from([2, 3, 57, 1000]),
)
def test_the_mean_is_numpys_to_the_last_bit(tmp_path, seed, number, length, size):
    models = _models(seed, number, size)
    last = LastModels(_folder(tmp_path), length)
    for round_number, model in enumerate(models, start=1):
        last.add(round_number, model)
        last.remove_others()
    wanted = np.mean(np.stack(models[-length:]), axis=0, dtype=np.float64).astype("f4")
    assert last.mean(models[-1]).tobytes() == wanted.tobytes()
    last.remove_all()


def test_blocks_do_not_show(tmp_path, monkeypatch):
    monkeypatch.setattr("wardround_server.last_models._BLOCK", 7)
    models = _models(1, 3, 50)
    last = LastModels(_folder(tmp_path), 3)
    for number, model in enumerate(models):
        last.add(number, model)
    wanted = np.mean(np.stack(models), axis=0, dtype=np.float64).astype("f4")
    assert last.mean(models[-1]).tobytes() == wanted.tobytes()


def test_one_model_needs_no_file(tmp_path):
    folder = _folder(tmp_path)
    last = LastModels(folder, 1)
    model = np.ones(3, np.float32)
    last.add(1, model)
    assert last.mean(model) is model
    assert list((folder.path / CHECKPOINTS).iterdir()) == []


def test_a_missing_or_exchanged_file_is_refused(tmp_path):
    folder = _folder(tmp_path)
    last = LastModels(folder, 2)
    for number in (1, 2):
        last.add(number, np.full(3, number, np.float32))
    file = folder.path / CHECKPOINTS / "model-1.safetensors"
    short = LastModels(RunFolder.create(tmp_path / "other"), 2)
    short.add(1, np.ones(2, np.float32))
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(RunFolderError, match="damaged"):
        last.mean(np.full(3, 2, np.float32))
    file.write_bytes((tmp_path / "other" / CHECKPOINTS / "model-1.safetensors").read_bytes())
    with pytest.raises(RunFolderError, match="damaged"):
        last.mean(np.full(3, 2, np.float32))
    file.write_bytes(content)
    np.testing.assert_array_equal(last.mean(np.full(3, 2, np.float32)), [1.5, 1.5, 1.5])
