"""A site's own record of what it did in a run; it stays at the site."""

import os
import resource
import sys
from pathlib import Path
from typing import Any

from wardround_shared import json_lines
from wardround_shared.errors import RunFolderError


class Journal:
    """JSON lines in the site's folder, one for each round."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "journal.jsonl"

    def write(self, **line: Any) -> None:
        """Append a line, with the process that wrote it and its peak memory in MB."""
        if not self._file.parent.is_dir():
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise RunFolderError(
                    f"The journal of this site cannot be written ({error.strerror})."
                ) from error
        line |= {"pid": os.getpid(), "peak_rss_mb": peak_rss_mb()}
        json_lines.append(self._file, line)

    @staticmethod
    def read(folder: Path) -> list[dict[str, Any]]:
        """All lines of the journal in `folder`, oldest first; none if there is no journal."""
        return json_lines.read(folder / "journal.jsonl")


def peak_rss_mb() -> float:
    """Peak resident memory of this process in MB (Linux counts kB, macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
