import os

import pytest
from killed_server import Killed, Moments

from wardround_server.run_folder import RunFolder
from wardround_server.sum_file import NEXT_ROUND, SUM, SumFile
from wardround_shared.errors import RunFolderError

PARTS = [b"head", bytearray(b"state"), memoryview(bytes(1000)), b""]
WHOLE = b"head" + b"state" + bytes(1000)


def test_what_is_saved_is_loaded_and_cleared(tmp_path):
    store = SumFile(tmp_path)
    assert store.load() is None
    store.save(iter(PARTS))
    assert SumFile(tmp_path).load() == WHOLE
    store.clear()
    store.clear()
    assert store.load() is None


def test_what_is_loaded_can_be_worked_on_where_it_lies(tmp_path):
    SumFile(tmp_path).save(PARTS)
    loaded = SumFile(tmp_path).load()
    memoryview(loaded)[0:1] = b"x"
    assert SumFile(tmp_path).load() == WHOLE


def test_the_number_of_the_next_round_is_kept(tmp_path):
    assert SumFile(tmp_path).next_round == 1
    SumFile(tmp_path).keep_next_round(12)
    assert SumFile(tmp_path).next_round == 12


@pytest.mark.parametrize("content", [b"", b"1", b"12", b"0\n", b"-3\n", b"x\n", b"1\n2\n", b"\xff"])
def test_a_number_that_is_not_whole_is_refused(tmp_path, content):
    (tmp_path / NEXT_ROUND).write_bytes(content)
    with pytest.raises(RunFolderError, match="next-secure-round"):
        _ = SumFile(tmp_path).next_round


def test_killed_anywhere_the_old_or_the_new_is_there(tmp_path):
    def work(folder):
        SumFile(folder).save([b"new"])
        SumFile(folder).keep_next_round(8)

    counted = Moments()
    (tmp_path / "counted").mkdir()
    with counted.killing(None):
        work(tmp_path / "counted")
    assert counted.passed > 8
    for moment in range(1, counted.passed + 1):
        folder = tmp_path / str(moment)
        folder.mkdir()
        SumFile(folder).save([b"old"])
        SumFile(folder).keep_next_round(7)
        with pytest.raises(Killed), Moments().killing(moment):
            work(folder)
        assert bytes(SumFile(folder).load()) in {b"old", b"new"}
        assert SumFile(folder).next_round in {7, 8}


def test_a_full_disk_is_one_sentence_and_leaves_the_old(tmp_path, monkeypatch):
    SumFile(tmp_path).save([b"old"])

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match="No space left on device"):
        SumFile(tmp_path).save([b"new"])
    assert SumFile(tmp_path).load() == b"old"
    assert {file.name for file in tmp_path.iterdir()} == {SUM}


def test_a_run_folder_has_one_below_its_checkpoints(tmp_path):
    folder = RunFolder.create(tmp_path / "run", durable=True)
    folder.sum_store().save([b"x"])
    assert (folder.path / "checkpoints" / "sum").read_bytes() == b"x"
