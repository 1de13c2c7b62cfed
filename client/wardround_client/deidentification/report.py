"""What came of it, in numbers: no path, no UID, nothing of a file."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from wardround_client.deidentification.attributes import Outcome
from wardround_client.deidentification.refusals import LEFT_OUT, Reason

_REMOVED = {
    Outcome.REMOVED_BY_PROFILE: "by the profile",
    Outcome.REMOVED_PRIVATE: "private",
    Outcome.REMOVED_UNKNOWN: "not known to be safe",
}


@dataclass(kw_only=True)
class Report:
    """Counts, of files and of the attributes of the files that were written."""

    written: int = 0
    patients: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    attributes: Counter[Outcome] = field(default_factory=Counter)

    @property
    def refused(self) -> dict[str, int]:
        """DICOM files that were not written, by reason."""
        return {why: n for why, n in self.reasons.most_common() if Reason(why) not in LEFT_OUT}

    @property
    def left_out(self) -> dict[str, int]:
        """What is no DICOM image at all, by what it is."""
        return {why: n for why, n in self.reasons.most_common() if Reason(why) in LEFT_OUT}

    def content(self) -> dict[str, Any]:
        """For a program."""
        counts = {outcome.value: self.attributes[outcome] for outcome in Outcome}
        counts["removed"] = sum(self.attributes[outcome] for outcome in _REMOVED)
        return {
            "written": self.written,
            "patients": self.patients,
            "refused": self.refused,
            "left_out": self.left_out,
            "attributes": counts,
        }

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield f"written: {self.written} (patients: {self.patients})"
        for reason, count in self.refused.items():
            yield f"refused: {count} ({reason})"
        for reason, count in self.left_out.items():
            yield f"left out: {count} ({reason})"
        for outcome in (Outcome.KEPT, Outcome.REPLACED, Outcome.EMPTIED):
            yield f"attributes {outcome.value}: {self.attributes[outcome]}"
        for outcome, which in _REMOVED.items():
            yield f"attributes removed: {self.attributes[outcome]} ({which})"
