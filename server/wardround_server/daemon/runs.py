"""The runs of a server, by their folders: commands write what they want, the daemon reads it.

`run.json` in a run's folder says what it is and how it stands. Nobody needs to reach the daemon to
ask for something, and what was asked for while it was down is done when it is up again.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from wardround_server.run_folder import INITIAL, STUDY, SUMMARY, RunFolder
from wardround_shared.agreement import RUN_NAME
from wardround_shared.errors import RunFolderError
from wardround_shared.study import Study, load_study, study_text

RECORD = "run.json"
STATUS = "status.json"
"""What a runner says of itself while it is at work; for people and metrics, and never read back."""

State = Literal["submitted", "running", "stopped", "finished", "failed"]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What `run.json` holds.

    Attributes:
        name: of the run, and of its folder.
        study, study_id: what is learned.
        state: where the run stands.
        why: a sentence, for one that failed.
        seed: of the initial model.
        created: UTC.
        sites: that are waited for; none: whoever has approved the study when there are enough.
    """

    name: str
    study: str
    study_id: str
    state: State
    why: str = ""
    seed: int = 0
    created: str = ""
    sites: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        """Whether the daemon works on it."""
        return self.state in {"submitted", "running"}


class Runs:
    """All runs of a server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def submit(
        self,
        study: Study,
        *,
        name: str | None,
        seed: int,
        now: datetime,
        sites: tuple[str, ...] = (),
        start: tuple[Mapping[str, NDArray[Any]], Mapping[str, str]] | None = None,
    ) -> RunRecord:
        """Ask for a run.

        Args:
            study: of the run.
            name: of the run; none: that of the study and the time.
            seed: of what the model starts from.
            now: the time.
            sites: that are waited for.
            start: weights to start from instead, as `initial_weights.read_weights` gives them.

        Raises:
            RunFolderError: the name is taken or none, or the folder cannot be made.
        """
        name = self._free_name(study.study.name, now) if name is None else name
        if not RUN_NAME.fullmatch(name):
            raise RunFolderError(
                f"{name[:80]!r} cannot be the name of a run; take lower-case letters, digits and "
                "hyphens, 80 at most."
            )
        if (self.folder / name).exists():
            raise RunFolderError(f"There is a run {name} already; give another name with --name.")
        folder = RunFolder.create(self.folder / name, durable=True)
        folder.write_text(STUDY, study_text(study))
        if start is not None:
            folder.write_arrays(INITIAL, *start)
        record = RunRecord(
            name=name,
            study=study.study.name,
            study_id=study.study_id,
            state="submitted",
            seed=seed,
            created=now.isoformat(timespec="seconds"),
            sites=tuple(dict.fromkeys(sites)),  # each is waited for once
        )
        # Last: a folder without it is no run yet.
        folder.write_json(RECORD, asdict(record))
        return record

    def all(self) -> list[RunRecord]:
        """Every run, the oldest first; one whose record is damaged has failed, and says so."""
        records = [self._shown(file) for file in sorted(self.folder.glob(f"*/{RECORD}"))]
        return sorted(records, key=lambda record: (record.created, record.name))

    def _shown(self, file: Path) -> RunRecord:
        name = file.parent.name
        try:
            return self.read(name)
        except RunFolderError as error:  # it must not stop the other runs
            return RunRecord(name=name, study="", study_id="", state="failed", why=str(error))

    def read(self, name: str) -> RunRecord:
        """One run.

        Raises:
            RunFolderError: there is none of that name, or its record is damaged.
        """
        file = self.folder / name / RECORD
        try:
            if not RUN_NAME.fullmatch(name):
                raise FileNotFoundError(name)  # nor a path that leads to one
            content = json.loads(file.read_text(encoding="utf-8"))
            return RunRecord(**content | {"sites": tuple(content["sites"])})
        except FileNotFoundError as error:
            known = ", ".join(one.parent.name for one in sorted(self.folder.glob(f"*/{RECORD}")))
            raise RunFolderError(
                f"There is no run {name!r} here; there are: {known or 'none yet'}."
            ) from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunFolderError(f"{file}: the record of this run is damaged ({error}).") from error

    def study(self, name: str) -> Study:
        """What a run learns.

        Raises:
            StudyError: its study file was changed for the worse.
        """
        return load_study(self.folder / name / STUDY)

    def change(self, name: str, state: State, *, why: str = "", only: set[State]) -> RunRecord:
        """Put a run into another state, if it is in one of `only`; else it stays as it is.

        Raises:
            RunFolderError: there is no such run.
        """
        with self._locked(name):
            record = self.read(name)
            if record.state in only:
                record = replace(record, state=state, why=why)
                RunFolder(self.folder / name, durable=True).write_json(RECORD, asdict(record))
        return record

    def status(self, name: str) -> dict[str, object]:
        """What the runner last said of itself; nothing if it has said nothing."""
        try:
            content = json.loads((self.folder / name / STATUS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def took_part(self, name: str) -> str:
        """How many sites of how many took part in how many rounds; nothing before a run's end."""
        try:
            text = (self.folder / name / SUMMARY).read_text(encoding="utf-8")
            sentence: str = json.loads(text)["participation"]["sentence"]
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        return sentence

    def _free_name(self, study: str, now: datetime) -> str:
        base = f"{study}-{now:%Y%m%d-%H%M%S}"
        name, number = base, 1
        while (self.folder / name).exists():
            number += 1
            name = f"{base}-{number}"
        return name

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One change at a time, over all processes."""
        self.read(name)
        file = os.open(self.folder / name / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)
