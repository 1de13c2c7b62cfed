import itertools

import numpy as np
import pytest
from safetensors.numpy import save_file

from wardround_server.run_folder import (
    CHECKPOINT,
    MODEL,
    ROSTER,
    ROUNDS,
    STUDY,
    RunFolder,
    read_lines,
    read_model,
)
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


class TestOpen:
    def test_a_run_folder_is_opened_and_goes_on(self, tmp_path):
        RunFolder.create(tmp_path / "run").write_text(STUDY, "text")
        (tmp_path / "run" / "checkpoints").rmdir()  # its maker was killed before
        folder = RunFolder.open(tmp_path / "run", durable=True)
        folder.write_arrays(CHECKPOINT, ARRAYS, METADATA)
        assert folder.durable

    def test_another_folder_is_refused(self, tmp_path):
        for place in (tmp_path, tmp_path / "none"):
            with pytest.raises(RunFolderError, match=r"no run folder; it has no study\.toml"):
                RunFolder.open(place)

    def test_only_one_process_works_on_it(self, tmp_path):
        folder = RunFolder.create(tmp_path / "run")
        with (
            folder.claimed(),
            pytest.raises(RunFolderError, match="another process"),
            RunFolder(folder.path).claimed(),
        ):
            pass
        with folder.claimed():
            pass

    def test_what_writing_that_broke_off_has_left_is_removed(self, tmp_path):
        folder = RunFolder.create(tmp_path / "run")
        left = [
            folder.path / "checkpoints" / ".latest.safetensors.17.unfinished",
            folder.path / ".model.safetensors.17.unfinished",
        ]
        others = folder.path / ".status.json.18.unfinished"
        for file in (*left, others):
            file.touch()
        with folder.claimed():
            assert not any(file.exists() for file in left)
            assert others.exists()


class TestLines:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = RunFolder.create(tmp_path / "run", durable=True)
        for number in range(3):
            folder.append_line(ROUNDS, {"round": number})
        return folder

    def test_lines_beyond_a_size_are_cut_off_torn_or_whole(self, folder):
        sizes = folder.sync_lines()
        with (folder.path / ROUNDS).open("a") as opened:
            opened.write('{"round": 3}\n{"rou')
        folder.append_line(ROSTER, {"round": 1})
        folder.cut_lines(sizes)
        assert [line["round"] for line in read_lines(folder.path / ROUNDS)] == [0, 1, 2]
        assert read_lines(folder.path / ROSTER) == []
        folder.cut_lines({})
        assert read_lines(folder.path / ROUNDS) == []

    def test_lines_that_are_missing_are_refused(self, folder):
        sizes = folder.sync_lines()
        whole = (folder.path / ROUNDS).read_bytes()
        for size in range(len(whole)):
            (folder.path / ROUNDS).write_bytes(whole[:size])
            with pytest.raises(RunFolderError, match="lines are missing"):
                folder.cut_lines(sizes)
        (folder.path / ROUNDS).unlink()
        with pytest.raises(RunFolderError, match="lines are missing"):
            folder.cut_lines(sizes)

    def test_a_line_that_is_being_written_is_not_read_yet(self, folder):
        with (folder.path / ROUNDS).open("a") as opened:
            opened.write('{"rou')
        assert len(read_lines(folder.path / ROUNDS)) == 3
        with (folder.path / ROUNDS).open("a") as opened:
            opened.write("\n")
        with pytest.raises(RunFolderError, match="damaged"):
            read_lines(folder.path / ROUNDS)


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
