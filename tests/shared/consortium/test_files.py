"""Several files of a home change together, wherever the machine stops; secrets stay secret."""

import os
from pathlib import Path

import pytest
from consortia import everything

from wardround_shared.consortium import files
from wardround_shared.errors import EnrolmentError

OLD = {"a": b"old a", "sub/b": b"old b", "gone": b"old"}
NEW = {"a": b"new a", "sub/b": b"new b", "other/c": b"new c"}


class PowerCutError(BaseException):
    """The machine stops; nothing after it is done."""


def home(folder: Path) -> Path:
    files.make_folder(folder)
    with files.changing(folder):
        files.change_together(folder, {folder / name: data for name, data in OLD.items()})
    return folder


def change(folder: Path) -> None:
    with files.changing(folder):
        changes: dict[Path, bytes | None] = {folder / name: data for name, data in NEW.items()}
        files.change_together(folder, changes | {folder / "gone": None})


def calls(monkeypatch, *, stop_at: int) -> list[str]:
    """Counts what changes the disk, and stops before the given one."""
    made: list[str] = []

    def counted(owner, name):
        real = getattr(owner, name)

        def call(*arguments, **keywords):
            if len(made) == stop_at:
                raise PowerCutError
            made.append(name)
            return real(*arguments, **keywords)

        monkeypatch.setattr(owner, name, call)

    for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
        counted(Path, name)
    counted(os, "fsync")
    return made


def test_a_change_is_made_whole_or_not_at_all_wherever_the_machine_stops(tmp_path, monkeypatch):
    whole = home(tmp_path / "whole")
    with monkeypatch.context() as context:
        made = calls(context, stop_at=10_000)
        change(whole)
    assert len(made) >= 20
    seen = set()
    for stop in range(len(made)):
        folder = home(tmp_path / str(stop))
        with monkeypatch.context() as context:
            calls(context, stop_at=stop)
            with pytest.raises(PowerCutError):
                change(folder)
        with files.changing(folder):  # as whoever opens the home next
            pass
        found = {
            name: data
            for name, data in everything(folder).items()
            if not name.startswith("change.unfinished")
        }
        assert found in (OLD, NEW), stop
        seen.add(found == NEW)
        change(folder)
        assert everything(folder) == NEW, "what was left over is in nobody's way"
    assert seen == {True, False}


def test_files_are_for_their_user_alone(tmp_path):
    old = os.umask(0)
    try:
        folder = home(tmp_path / "home")
        change(folder)
    finally:
        os.umask(old)
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_nothing_is_left_of_a_change_that_found_no_room(tmp_path, monkeypatch):
    folder = home(tmp_path / "home")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr("os.fsync", full)
        with pytest.raises(EnrolmentError, match=r"cannot be written \(No space left"):
            change(folder)
    change(folder)
    assert everything(folder) == NEW


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o644, 0o777])
def test_a_key_that_others_can_get_at_is_refused(tmp_path, mode):
    key = tmp_path / "some.key"
    files.write_new_secret(key, b"secret")
    assert files.read_secret(key) == b"secret"
    key.chmod(mode)
    with pytest.raises(EnrolmentError, match=f"mode {mode:04o}.*chmod 600"):
        files.read_secret(key)


def test_a_secret_is_never_written_over(tmp_path):
    key = tmp_path / "some.key"
    files.write_new_secret(key, b"secret")
    with pytest.raises(EnrolmentError, match="cannot be written"):
        files.write_new_secret(key, b"other")
    assert key.read_bytes() == b"secret"


def test_a_folder_with_something_in_it_is_not_taken(tmp_path):
    (tmp_path / "thesis.doc").write_text("years of work")
    with (
        files.changing(tmp_path),
        pytest.raises(EnrolmentError, match="nothing is ever written over"),
    ):
        files.take_empty(tmp_path)


@pytest.mark.parametrize("place", [".", "/", "folder", "nowhere/file"])
def test_a_folder_is_no_file_for_others(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for call in (files.require_place, lambda file: files.write_for_others(file, b"x")):
        with pytest.raises(EnrolmentError, match="folder") as refused:
            call(Path(place))
        assert str(refused.value).startswith(f"{place}: ")
    assert everything(tmp_path) == {}


def test_a_file_for_others_is_replaced_whole(tmp_path):
    file = tmp_path / "request"
    for data in (b"old", b"new"):
        files.require_place(file)
        files.write_for_others(file, data)
    assert everything(tmp_path) == {"request": b"new"}
    assert files.read_file(file, most=2) == b"ne"


@pytest.mark.parametrize("number", [1, 2, 13, 20, 21, 28, 30, 122, 5])
def test_what_the_system_says_has_a_remedy_and_no_path(number):
    said = files.why(OSError(number, os.strerror(number), "/home/somebody"))
    assert said.startswith(f"{os.strerror(number)}; ")
    assert "/home" not in said
