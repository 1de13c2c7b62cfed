"""The run folder: everything a run leaves on disk, written so that nothing is half there."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from wardround_server.rounds import RosterLine
from wardround_shared import json_lines
from wardround_shared.errors import RunFolderError

STUDY = "study.toml"
SUMMARY = "summary.json"
ROUNDS = "rounds.jsonl"
ROSTER = "roster.jsonl"
MODEL = "model.safetensors"
CHECKPOINT = "checkpoints/latest.safetensors"
METADATA = "wardround"
"""The one key of a safetensors file's metadata; a JSON object of strings stands under it."""


class RunFolder:
    """A run folder that is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make a new run folder.

        Raises:
            RunFolderError: it exists, or cannot be made.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            (path / "checkpoints").mkdir()
        except OSError as error:
            # A file that stands where a parent folder should be "exists" as well.
            if isinstance(error, FileExistsError) and os.path.lexists(path):
                raise RunFolderError(
                    f"{path}: this run folder exists already; name another with --out."
                ) from error
            raise RunFolderError(
                f"{path}: cannot be made ({error.filename}: {error.strerror}); "
                "name another with --out."
            ) from error
        return cls(path)

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

    def _replace(self, name: str, write: Any) -> None:
        target = self.path / name
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            write(unfinished)
            unfinished.replace(target)
        except (OSError, SafetensorError) as error:
            unfinished.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or str(error)
            raise RunFolderError(f"{target}: cannot be written ({reason}).") from error


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
