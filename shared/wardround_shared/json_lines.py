"""Files of JSON lines that are only ever appended to, and never hold half a line."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround_shared.errors import RunFolderError


def append(file: Path, content: Mapping[str, Any]) -> None:
    """Append one line, whole or not at all.

    Raises:
        RunFolderError: the disk is full or the file cannot be written; it is as it was then.
    """
    line = (json.dumps(content, allow_nan=False) + "\n").encode()
    try:
        # Without Python's file object, which asks the system for more than this; sites write often.
        lines = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            taken = _write(lines, line)
            if taken < len(line):
                # The disk took a part; it would spoil the next reading.
                os.ftruncate(lines, os.fstat(lines).st_size - taken)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(lines)
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written ({error.strerror}).") from error


def _write(lines: int, line: bytes) -> int:
    """Bytes that the disk took of one write; none if it is full."""
    try:
        return os.write(lines, line)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return 0
        raise


def read(file: Path) -> list[dict[str, Any]]:
    """All lines, oldest first; none if there is no such file."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
