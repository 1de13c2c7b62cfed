"""What a site keeps of a run beside its answers: the privacy plan and the last round trained.

In a simulation it lies in the node's Flower context, whose records it uses. A daemon's lies on its
disk: Flower forgets a context with the process that held it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flwr.app import ConfigRecord

from wardround_client.durable import keeping, locked, private_folder, replace
from wardround_shared.errors import PrivacyError

STATE = "state.json"
"""Name of the file, below the folder of the site and run."""

_DAMAGED = (
    "What this site has kept of the run is damaged or is another run's, so that it cannot go on "
    "with it; see to its disk, and start a new run."
)


class RunState(Protocol):
    """Records of numbers by name, as a `RecordDict` has them; those of one run only."""

    def get(self, key: str, /) -> object:
        """The record of that name, or None. To change it, set it anew."""
        ...

    def __setitem__(self, key: str, value: ConfigRecord, /) -> None:
        """Keep a record."""
        ...


@dataclass(frozen=True, kw_only=True)
class StateFile:
    """The records in a file, which is replaced whole; several processes may use it.

    Attributes:
        file: as JSON; its folder is made if need be.
        run: name of the run.
        study_id: its study.
    """

    file: Path
    run: str
    study_id: str

    def get(self, key: str, /) -> ConfigRecord | None:
        """The record of that name, or None.

        Raises:
            PrivacyError: the file is damaged, or of another run.
        """
        numbers = self._read().get(key)
        return None if numbers is None else ConfigRecord(numbers)

    def __setitem__(self, key: str, value: ConfigRecord, /) -> None:
        """Keep a record; on the disk itself when this returns.

        Raises:
            PrivacyError: the file is damaged, or cannot be written.
        """
        with keeping("The state of this run"):
            private_folder(self.file.parent)
            with locked(self.file.parent):
                records = self._read() | {key: dict(value)}
                replace(self.file, [self._text(records).encode()])

    def _text(self, records: dict[str, Any]) -> str:
        content = {"run": self.run, "study_id": self.study_id, "records": records}
        hashed = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return json.dumps(content | {"sha256": hashed}, indent=2, sort_keys=True)

    def _read(self) -> dict[str, Any]:
        """All records; none if there is no file yet."""
        try:
            text = self.file.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise PrivacyError(_DAMAGED) from error
        try:
            records: dict[str, Any] = json.loads(text)["records"]
            sound = self._text(records).encode() == text
        except (ValueError, TypeError, KeyError) as error:
            raise PrivacyError(_DAMAGED) from error
        if not sound:
            raise PrivacyError(_DAMAGED)
        return records
