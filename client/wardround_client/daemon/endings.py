"""What the audit log says of processes that ended."""

import time
from collections.abc import Callable

from wardround_client.flower.refusal import Refusal
from wardround_shared.audit_log import AuditLog, Sparing, Told

AN_HOUR = 3
"""Lines of the same end within an hour."""


class Endings:
    """Lines about processes that ended, and about the refusal that ended them."""

    def __init__(self, log: AuditLog, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._ends = Sparing(often=AN_HOUR, clock=clock)
        self._refusals = Sparing(clock=clock)
        self._last: Refusal | None = None

    def note(self, process: str, code: int) -> Refusal | None:
        """Note an end; returns the refusal that was its reason.

        Raises:
            AuditError: it cannot be written.
        """
        refusal = Refusal.of_exit(code)
        if self._ends.worth((process, code)):
            self._log.append("restarted", process=process, exit=code)
        # Once may be a moment's: a key that has just come into force is registered soon after.
        if refusal is not None and refusal == self._last and self._refusals.worth(refusal):
            self._log.append("refused", reason=Told(refusal.sentence))
        self._last = refusal
        return refusal
