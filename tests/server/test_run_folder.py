import itertools

import numpy as np
import pytest
from safetensors.numpy import save_file

from wardround_server.run_folder import MODEL, RunFolder, read_model
from wardround_shared.errors import RunFolderError

ARRAYS = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(2)}
METADATA = {"study": "small", "study_id": "1f", "classes": "absent\npresent", "sites": "Köln"}


class TestCreate:
    def test_a_run_folder_that_is_there_is_refused_as_such(self, tmp_path):
        RunFolder.create(tmp_path / "run")
        with pytest.raises(RunFolderError, match="run: this run folder exists already"):
            RunFolder.create(tmp_path / "run")

    @pytest.mark.parametrize("below", ["run", "deep/run"])
    def test_a_file_in_the_way_is_not_called_a_run_folder(self, tmp_path, below):
        file = tmp_path / "file"
        file.touch()
        with pytest.raises(RunFolderError, match=r"cannot be made \(.*file") as refused:
            RunFolder.create(file / below)
        assert "exists already" not in str(refused.value)


class TestModel:
    def test_what_is_written_is_read(self, tmp_path):
        folder = RunFolder.create(tmp_path / "run")
        folder.write_arrays(MODEL, ARRAYS, METADATA)
        arrays, metadata = read_model(folder.path)
        assert metadata == METADATA
        assert arrays.keys() == ARRAYS.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, ARRAYS[name])

    def test_equal_content_gives_equal_bytes(self, tmp_path):
        folder = RunFolder.create(tmp_path / "run")
        written = set()
        for order in itertools.permutations(METADATA):
            folder.write_arrays(MODEL, ARRAYS, {key: METADATA[key] for key in order})
            written.add((folder.path / MODEL).read_bytes())
        assert len(written) == 1

    @pytest.mark.parametrize("metadata", [None, {"study": "small"}, {"wardround": "{"}])
    def test_a_file_without_wardrounds_metadata_is_refused(self, tmp_path, metadata):
        save_file(ARRAYS, tmp_path / MODEL, metadata)
        with pytest.raises(RunFolderError, match="damaged"):
            read_model(tmp_path)
