"""A site's own record of what it did in a run; it stays at the site."""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any


class Journal:
    """JSON lines in the site's folder, one for each round."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "journal.jsonl"

    def write(self, **line: Any) -> None:
        """Append a line, with the process that wrote it and its peak memory in MB."""
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        line |= {"pid": os.getpid(), "peak_rss_mb": peak_rss_mb()}
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")

    @staticmethod
    def read(folder: Path) -> list[dict[str, Any]]:
        """All lines of the journal in `folder`, oldest first; none if there is no journal."""
        file = folder / "journal.jsonl"
        if not file.is_file():
            return []
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def peak_rss_mb() -> float:
    """Peak resident memory of this process in MB (Linux counts kB, macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
