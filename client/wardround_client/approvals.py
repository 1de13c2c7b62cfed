"""The studies that were offered to this site, and what its staff have decided of each.

`studies/<study id>/` holds `study.toml`, as it was offered, and `decision.json`. The id is computed
from the content each time it is read, so that a study that was changed after it was approved is
another study, which nobody has approved. Refusals are sentences that may leave the site.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from wardround_client.durable import locked, private_folder, replace
from wardround_shared.errors import NotAllowedError, PolicyError, StudyError
from wardround_shared.study import Study, parse_study
from wardround_shared.study.document import Name
from wardround_shared.study.writing import study_text

LARGEST_STUDY = 256 * 1024
"""Letters of the longest study file that is taken from a server."""
MOST_UNDECIDED = 100
"""Offers without a decision; beyond, a server could fill the disk with them."""

_STUDY, _DECISION, _RUN = "study.toml", "decision.json", "run.json"
_ID = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{4,64}")
_NAME: TypeAdapter[str] = TypeAdapter(Name)

Verdict = Literal["approved", "refused"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the staff have decided.

    Attributes:
        data_set: that the study may use; None if it was refused.
        time: in UTC.
    """

    verdict: Verdict
    data_set: str | None
    time: datetime


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A study that was offered, and what was decided of it; None: nothing yet."""

    study: Study
    decision: Decision | None


def _now() -> datetime:
    return datetime.now(UTC)


class Approvals:
    """The studies of one site."""

    def __init__(self, folder: Path, *, now: Callable[[], datetime] = _now) -> None:
        """Those in `folder`, which is made when the first one is offered."""
        self._folder = folder
        self._now = now

    def keep(self, text: str) -> Study:
        """Keep a study that the server offers; nothing is decided by it.

        Args:
            text: of the study file.

        Raises:
            StudyError: this is no study.
            NotAllowedError: too long, or too many wait for a decision.
            PolicyError: it cannot be written.
        """
        if len(text) > LARGEST_STUDY:
            raise NotAllowedError(
                f"The study file has {len(text)} letters, and this site takes {LARGEST_STUDY}."
            )
        try:
            study = parse_study(text, origin="the study that the server offers")
        except RecursionError:
            raise StudyError("The study that the server offers is nested too deep.") from None
        if _is_offer(self._folder / study.study_id):
            return self._read(study.study_id)
        undecided = sum(offer.decision is None for offer in self.offered())
        if undecided >= MOST_UNDECIDED:
            raise NotAllowedError(
                f"{undecided} studies wait for a decision of this site's staff already; offer "
                "another one when they have decided."
            )
        self._write(study.study_id, _STUDY, study_text(study))
        return self._read(study.study_id)

    def offered(self) -> tuple[Offer, ...]:
        """Every study that was offered, those to be decided first, then by name.

        Raises:
            NotAllowedError: a file was changed since; names the study.
        """
        folders = self._folder.iterdir() if self._folder.is_dir() else ()
        offers = [self._offer(folder.name) for folder in folders if _is_offer(folder)]
        return tuple(
            sorted(
                offers,
                key=lambda offer: (
                    offer.decision is not None,
                    offer.study.study.name,
                    offer.study.study_id,
                ),
            )
        )

    def find(self, start: str) -> Offer:
        """The offer whose id is `start`, or begins with it.

        Raises:
            NotAllowedError: there is none, more than one, or a file was changed since.
        """
        if not _PREFIX.fullmatch(start):
            raise NotAllowedError(
                f"{start[:64]!r} is no id of a study; give its first letters, 4 at least."
            )
        names = [one.name for one in self._folder.glob(f"{start}*") if _is_offer(one)]
        if len(names) != 1:
            raise NotAllowedError(
                f"{len(names) or 'No'} studies that were offered to this site have an id that "
                f"begins with {start}; wardround-site study list shows them."
            )
        return self._offer(names[0])

    def approve(self, start: str, *, data_set: str) -> Offer:
        """Let a study use a data set; the disclosure statement is to be read before.

        Args:
            start: the study's id, or its first letters.
            data_set: its name.

        Raises:
            NotAllowedError: see `find`; or that is no name of a data set.
            PolicyError: it cannot be written.
        """
        try:
            _NAME.validate_python(data_set)
        except ValidationError:
            raise NotAllowedError(f"{data_set[:64]!r} is no name of a data set.") from None
        return self._decide(start, "approved", data_set)

    def refuse(self, start: str) -> Offer:
        """Let a study use nothing, also if it was approved before.

        Raises:
            NotAllowedError: see `find`.
            PolicyError: it cannot be written.
        """
        return self._decide(start, "refused", None)

    def require_approved(self, study_id: str) -> tuple[Study, str]:
        """The study of that id, and the name of the data set that it may use.

        Raises:
            NotAllowedError: it was not approved, was refused, or its files were changed since.
        """
        if not _ID.fullmatch(study_id):
            raise NotAllowedError("The server names a study by what is no id.")
        if not (self._folder / study_id / _STUDY).exists():
            raise _undecided(study_id)
        offer = self._offer(study_id)
        if offer.decision is None:
            raise _undecided(study_id)
        if offer.decision.data_set is None:
            raise NotAllowedError(
                f"This site's staff have refused study {_short(study_id)}; speak with them."
            )
        return offer.study, offer.decision.data_set

    def require_run(self, study_id: str, run: str) -> None:
        """Refuse any other run than the one that the approval was used for, if it was.

        Raises:
            NotAllowedError: it was used for another run.
        """
        used = self.used_for(study_id)
        if used is not None and used != run:
            raise NotAllowedError(
                f"This site's approval of study {_short(study_id)} was for one run, and another "
                "has used it; its staff decide with wardround-site study approve on a further run."
            )

    def use_for(self, study_id: str, run: str) -> None:
        """Use the approval up for this run; it lasts as long as the run.

        Two runs of a study over other sites would tell by their difference what one site has, and
        what is summed outside epsilon would be told again: staff decide on each run.

        Raises:
            NotAllowedError: it was used for another run.
            PolicyError: it cannot be written.
        """
        with locked(self._folder / study_id):
            self.require_run(study_id, run)
            if self.used_for(study_id) is None:
                self._write(study_id, _RUN, json.dumps({"run": run}) + "\n")

    def used_for(self, study_id: str) -> str | None:
        """Name of the run that the approval was used for; None: of none yet.

        Raises:
            NotAllowedError: the file was changed since.
        """
        try:
            content = json.loads((self._folder / study_id / _RUN).read_text(encoding="utf-8"))
            run = content["run"]
            if not isinstance(run, str):  # null would read as unused
                raise TypeError("no name of a run")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise _changed(study_id) from error
        return run

    # --- files -------------------------------------------------------------------------------

    def _decide(self, start: str, verdict: Verdict, data_set: str | None) -> Offer:
        study = self.find(start).study
        content = {
            "decision": verdict,
            "data-set": data_set,
            "time": self._now().astimezone(UTC).isoformat(timespec="seconds"),
            "study-id": study.study_id,
        }
        with locked(self._folder / study.study_id):
            self._write(study.study_id, _DECISION, json.dumps(content) + "\n")
            # A new decision is about a further run.
            (self._folder / study.study_id / _RUN).unlink(missing_ok=True)
        return self._offer(study.study_id)

    def _offer(self, study_id: str) -> Offer:
        return Offer(study=self._read(study_id), decision=self._decision(study_id))

    def _read(self, study_id: str) -> Study:
        try:
            text = (self._folder / study_id / _STUDY).read_text(encoding="utf-8")
            study = parse_study(text, origin="study")
        except (OSError, UnicodeDecodeError, StudyError, RecursionError) as error:
            raise _changed(study_id) from error
        if study.study_id != study_id:
            raise _changed(study_id)
        return study

    def _decision(self, study_id: str) -> Decision | None:
        file = self._folder / study_id / _DECISION
        if not file.exists():
            return None
        try:
            return _decision_of(json.loads(file.read_text(encoding="utf-8")), study_id)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise _changed(study_id) from error

    def _write(self, study_id: str, name: str, text: str) -> None:
        folder = self._folder / study_id
        try:
            private_folder(folder)
            replace(folder / name, [text.encode()])
        except OSError as error:
            raise PolicyError(f"{folder}: it cannot be written ({error.strerror}).") from error


def _is_offer(folder: Path) -> bool:
    """Whether anything was kept of a study: its folder comes first, a crash may come between."""
    known = (folder / _STUDY).exists() or (folder / _DECISION).exists()
    return known and _ID.fullmatch(folder.name) is not None


def _decision_of(content: dict[str, str | None], study_id: str) -> Decision:
    """A decision as written, and nothing else.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    if set(content) != {"decision", "data-set", "time", "study-id"}:
        raise ValueError("other keys")
    time = datetime.fromisoformat(str(content["time"]))
    data_set = content["data-set"]
    for verdict in get_args(Verdict):
        if content["decision"] == verdict and (data_set is not None) == (verdict == "approved"):
            break
    else:
        raise ValueError("no decision")
    if content["study-id"] != study_id or time.tzinfo is None:
        raise ValueError("another study, or no time")
    if data_set is not None:
        _NAME.validate_python(data_set)
    return Decision(verdict=verdict, data_set=data_set, time=time)


def _short(study_id: str) -> str:
    return f"{study_id[:12]}…"


def _undecided(study_id: str) -> NotAllowedError:
    return NotAllowedError(
        f"This site has not approved study {_short(study_id)} yet; its staff decide with "
        "wardround-site study approve."
    )


def _changed(study_id: str) -> NotAllowedError:
    return NotAllowedError(
        f"What this site keeps of study {_short(study_id)} is not what was offered or decided; "
        "its staff have to remove it and to decide again."
    )
