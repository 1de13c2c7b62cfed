"""Files of JSON lines that are only ever appended to, and never hold half a line."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from wardround_shared.errors import RunFolderError


def append(file: Path, content: Mapping[str, Any]) -> None:
    """Append one line, whole or not at all.

    Raises:
        RunFolderError: the disk is full or the file cannot be written; it is as it was then.
    """
    line = (json.dumps(content, allow_nan=False) + "\n").encode()
    try:
        with file.open("ab", buffering=0) as lines:
            before = os.fstat(lines.fileno()).st_size
            if _write(lines, line) < len(line):
                # The disk took a part; it would spoil the next reading.
                lines.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written ({error.strerror}).") from error


def _write(lines: BinaryIO, line: bytes) -> int:
    """Bytes that the disk took of one write; none if it is full."""
    try:
        return lines.write(line)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return 0
        raise


def read(file: Path) -> list[dict[str, Any]]:
    """All lines, oldest first; none if there is no such file."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
