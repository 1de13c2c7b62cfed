"""A file of JSON lines never holds half a line."""

import json
import os

import pytest

from wardround_shared import json_lines
from wardround_shared.errors import RunFolderError


def test_lines_come_back_in_order(tmp_path):
    file = tmp_path / "a.jsonl"
    assert json_lines.read(file) == []
    for number in range(3):
        json_lines.append(file, {"n": number})
    assert json_lines.read(file) == [{"n": 0}, {"n": 1}, {"n": 2}]


@pytest.mark.parametrize("taken", [0, 5])
def test_a_disk_that_fills_up_leaves_the_file_as_it_was(tmp_path, monkeypatch, taken):
    file = tmp_path / "a.jsonl"
    json_lines.append(file, {"n": 1})

    def full(lines, line):
        return os.write(lines, line[:taken])

    monkeypatch.setattr(json_lines, "_write", full)
    with pytest.raises(RunFolderError, match="No space left"):
        json_lines.append(file, {"n": 2})
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{"n": 1}]


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(RunFolderError, match="cannot be written"):
        json_lines.append(tmp_path / "none" / "a.jsonl", {})


def test_what_is_no_json_number_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        json_lines.append(tmp_path / "a.jsonl", {"n": float("nan")})
    assert not (tmp_path / "a.jsonl").exists()
