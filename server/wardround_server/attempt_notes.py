"""The failed attempts of the round under way, kept for its roster line also by a killed server."""

import dataclasses
import json

from wardround_server.rounds import Dropped, FailedAttempts, RosterLine
from wardround_server.run_folder import CHECKPOINTS, RunFolder
from wardround_shared.errors import RunFolderError

ATTEMPTS = f"{CHECKPOINTS}/attempts.json"


class AttemptNotes:
    """Counts attempts that were followed by another one; a round that nobody repeats has none."""

    def __init__(self, folder: RunFolder) -> None:
        """Those of the run in this folder."""
        self._folder = folder
        self._latest: FailedAttempts | None = None

    def of(self, number: int) -> FailedAttempts:
        """Those of round `number`.

        Raises:
            RunFolderError: the file is damaged.
        """
        if self._latest is None:
            self._latest = self._read()
        return self._latest if self._latest.round == number else FailedAttempts(round=number)

    def add(self, line: RosterLine) -> None:
        """One more attempt of the round of this line has failed.

        Raises:
            RunFolderError: the disk is full or failed.
        """
        self._latest = self.of(line.round).and_also(line)
        self._folder.write_json(ATTEMPTS, dataclasses.asdict(self._latest))

    def _read(self) -> FailedAttempts:
        file = self._folder.path / ATTEMPTS
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return FailedAttempts(
                round=int(content["round"]),
                attempts=int(content["attempts"]),
                dropped=tuple(Dropped(**drop) for drop in content["dropped"]),
            )
        except FileNotFoundError:
            return FailedAttempts(round=0)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{file}: it is damaged ({error}); remove it: the roster will say fewer attempts "
                "than there were."
            ) from error
