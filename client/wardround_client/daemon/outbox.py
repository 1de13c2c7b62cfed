"""Answers that were formed, on disk before they are sent, so that a lost one is sent again.

A masked vector is made once: its masks are spent. What is sent again is byte for byte the same.
"""

from pathlib import Path

from flwr.app import RecordDict

from wardround_client.durable import keeping, remove_unfinished, replace
from wardround_shared.errors import ProtocolError
from wardround_shared.packing import pack, unpack

KEPT = 6
"""Answers that are kept; the server asks for the last one, or one of those just before it."""


class Outbox:
    """The last answers of a site, by ticket."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        remove_unfinished(folder)

    def put(self, ticket: str, content: RecordDict) -> None:
        """Keep an answer; it is on disk when this returns.

        Raises:
            PrivacyError: it cannot be written; nothing may be sent then.
        """
        with keeping("An answer of this site"):
            replace(self._file(ticket), pack(content))
            files = sorted(self._folder.glob("*.answer"), key=lambda one: one.stat().st_mtime_ns)
            for file in files[:-KEPT]:
                if file != self._file(ticket):  # a clock may have been set back
                    file.unlink(missing_ok=True)

    def find(self, ticket: str) -> RecordDict | None:
        """The answer that was kept under a ticket, if it is there and whole."""
        try:
            return unpack(self._file(ticket).read_bytes())
        except (OSError, ProtocolError):
            return None

    def _file(self, ticket: str) -> Path:
        return self._folder / f"{ticket}.answer"
