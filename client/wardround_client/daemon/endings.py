"""What the audit log says of processes that ended: what repeats itself does not fill the disk."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from wardround_client.flower.refusal import Refusal
from wardround_shared.audit_log import AuditLog, Told

AGAIN_SECONDS = 3600.0
"""The same thing has one line in so many seconds."""

FIRST = 3
"""Lines of the same end before they become rare."""


@dataclass
class _Known:
    lines: int
    written: float
    seen: float


class Endings:
    """Lines about processes that ended, and about the refusal that ended them."""

    def __init__(self, log: AuditLog, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._ends: dict[tuple[str, int], _Known] = {}
        self._refusals: dict[Refusal, float] = {}
        self._last: Refusal | None = None

    def note(self, process: str, code: int) -> Refusal | None:
        """Note an end; returns the refusal that was its reason.

        Raises:
            AuditError: it cannot be written.
        """
        refusal = Refusal.of_exit(code)
        if self._is_worth_a_line(process, code):
            self._log.append("restarted", process=process, exit=code)
        # Once may be a moment's: a key that has just come into force is registered soon after.
        if refusal is not None and refusal == self._last:
            self._note_refusal(refusal)
        self._last = refusal
        return refusal

    def _is_worth_a_line(self, process: str, code: int) -> bool:
        now = self._clock()
        known = self._ends.get((process, code))
        if known is None or now - known.seen >= AGAIN_SECONDS:
            known = self._ends[process, code] = _Known(lines=0, written=now, seen=now)
        known.seen = now
        if known.lines >= FIRST and now - known.written < AGAIN_SECONDS:
            return False
        known.lines, known.written = known.lines + 1, now
        return True

    def _note_refusal(self, refusal: Refusal) -> None:
        now = self._clock()
        noted = self._refusals.get(refusal)
        if noted is None or now - noted >= AGAIN_SECONDS:
            self._log.append("refused", reason=Told(refusal.sentence))
            self._refusals[refusal] = now
