"""The run folder: everything a run leaves on disk, written so that nothing is half there."""

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from wardround_server import durable
from wardround_server.rounds import RosterLine
from wardround_server.sum_file import SumFile
from wardround_shared import json_lines
from wardround_shared.errors import RunFolderError

STUDY = "study.toml"
SUMMARY = "summary.json"
ROUNDS = "rounds.jsonl"
ROSTER = "roster.jsonl"
MODEL = "model.safetensors"
INITIAL = "initial.safetensors"
INITIAL_SAID = "initial.json"
CHECKPOINTS = "checkpoints"
CHECKPOINT = f"{CHECKPOINTS}/latest.safetensors"
METADATA = "wardround"
"""The one key of a safetensors file's metadata; a JSON object of strings stands under it."""

LINES = (ROUNDS, ROSTER)


class RunFolder:
    """A run folder that is being written.

    Attributes:
        durable: whether what is written survives a power cut, and is there for a process that goes
            on with the run; a simulation ends with its machine and saves the time.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.path = path
        self.durable = durable

    @classmethod
    def create(cls, path: Path, *, durable: bool = False) -> "RunFolder":
        """Make a new run folder.

        Raises:
            RunFolderError: it exists, or cannot be made.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            (path / CHECKPOINTS).mkdir()
        except OSError as error:
            # A file that stands where a parent folder should be "exists" as well.
            if isinstance(error, FileExistsError) and os.path.lexists(path):
                raise RunFolderError(
                    f"{path}: this run folder exists already; name another with --out."
                ) from error
            raise RunFolderError(
                f"{path}: cannot be made ({error.filename}: {error.strerror}); see to the folder "
                "above it, or choose another one."
            ) from error
        return cls(path, durable=durable)

    @classmethod
    def open(cls, path: Path, *, durable: bool = False) -> "RunFolder":
        """A run folder that is there, to go on with its run.

        Raises:
            RunFolderError: it is not there, or cannot be written.
        """
        if not (path / STUDY).is_file():
            raise RunFolderError(f"{path}: this is no run folder; it has no {STUDY}.")
        try:
            # Whoever made the folder may have been stopped before this.
            (path / CHECKPOINTS).mkdir(exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be written ({error.strerror}).") from error
        return cls(path, durable=durable)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Alone with the folder; the claim of a process that dies is gone with it.

        Raises:
            RunFolderError: another process works on this run.
        """
        handle = os.open(self.path / CHECKPOINTS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFolderError(
                    f"{self.path}: another process works on this run; wait until it has ended."
                ) from error
            durable.remove_unfinished(self.path / CHECKPOINTS)
            durable.remove_unfinished(self.path, MODEL)
            yield
        finally:
            os.close(handle)

    def sum_store(self) -> SumFile:
        """Where secure aggregation keeps what a server that is killed goes on with."""
        return SumFile(self.path / CHECKPOINTS)

    def write_text(self, name: str, text: str) -> None:
        """Write a whole file: under another name first, then renamed.

        Raises:
            RunFolderError: the disk is full or the folder cannot be written.
        """
        self._replace(name, lambda target: target.write_text(text, encoding="utf-8"))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file; a value that JSON has no number for is a ValueError."""
        self.write_text(name, _json_text(content))

    def write_arrays(
        self, name: str, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
    ) -> None:
        """Write a safetensors file; the same content always gives the same bytes."""
        contiguous = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
        # safetensors writes its own metadata in an order that changes from call to call.
        kept = {METADATA: json.dumps(dict(metadata), sort_keys=True)}
        self._replace(name, lambda target: save_file(contiguous, target, kept))

    def append_line(self, name: str, content: Mapping[str, Any]) -> None:
        """Append one JSON line.

        Raises:
            RunFolderError: the disk is full or the folder cannot be written.
        """
        json_lines.append(self.path / name, content)

    def append_roster(self, line: RosterLine) -> None:
        """Append who took part in a round."""
        self.append_line(ROSTER, dataclasses.asdict(line))

    def sync_lines(self) -> dict[str, int]:
        """Put all lines on the disk itself, where that is asked for; bytes of each of `LINES`.

        Raises:
            RunFolderError: the disk failed.
        """
        sizes = {}
        for name in LINES:
            file = self.path / name
            try:
                sizes[name] = file.stat().st_size
                if self.durable:
                    durable.sync(file)
            except FileNotFoundError:
                sizes[name] = 0
            except OSError as error:
                raise RunFolderError(f"{file}: cannot be written ({error.strerror}).") from error
        return sizes

    def cut_lines(self, sizes: Mapping[str, int]) -> None:
        """Take away the lines, whole or torn, that stand beyond these sizes (see `sync_lines`).

        Raises:
            RunFolderError: a file is shorter, or no line ends there: it was changed.
        """
        for name in LINES:
            file, size = self.path / name, sizes.get(name, 0)
            try:
                _cut(file, size)
            except OSError as error:
                raise RunFolderError(f"{file}: cannot be written ({error.strerror}).") from error

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def _replace(self, name: str, write: durable.Write) -> None:
        target = self.path / name
        try:
            durable.replace(target, write, durable=self.durable)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise RunFolderError(f"{target}: cannot be written ({reason}).") from error


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of one of `LINES`, also while it is being written; none without the file.

    Raises:
        RunFolderError: a line is damaged.
    """
    if not file.is_file():
        return []
    whole, _, _torn = file.read_bytes().rpartition(b"\n")
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise RunFolderError(f"{file}: a line is damaged ({error}).") from error


def _cut(file: Path, size: int) -> None:
    found = file.stat().st_size if file.exists() else 0
    if found == size == 0:
        return
    if found >= size:
        with file.open("rb") as opened:
            opened.seek(max(size - 1, 0))
            ends = size == 0 or opened.read(1) == b"\n"
        if ends:
            os.truncate(file, size)
            return
    raise RunFolderError(
        f"{file}: lines are missing that the checkpoint knows of; restore the run folder from a "
        "backup, or start the run anew."
    )


def read_model(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Arrays and metadata of a finished run's model.

    Raises:
        RunFolderError: there is no model, or the file is damaged.
    """
    from safetensors import safe_open  # noqa: PLC0415 - only readers of metadata need it

    file = path / MODEL
    if not file.is_file():
        raise RunFolderError(f"{path}: this is no finished run; it has no {MODEL}.")
    try:
        with safe_open(file, framework="numpy") as opened:
            kept = opened.metadata() or {}
        if METADATA not in kept:
            raise ValueError(f"its metadata have no key {METADATA}")
        return load_file(file), json.loads(kept[METADATA])
    except (SafetensorError, OSError, ValueError) as error:
        raise RunFolderError(f"{file}: the model file is damaged ({error}).") from error


def _json_text(content: Mapping[str, Any]) -> str:
    """JSON with a line for each key: readable, and made by the fast encoder."""
    lines = [f"  {json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in content.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
