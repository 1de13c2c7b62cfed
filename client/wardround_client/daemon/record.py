"""What the worker's answers leave in the audit log."""

import time
from collections.abc import Callable
from pathlib import Path

from flwr.app import RecordDict
from flwr.clientapp import ClientApp

from wardround_client.flower.tasks import request_of
from wardround_shared.audit_log import AuditLog, Told
from wardround_shared.errors import WardroundError
from wardround_shared.messages import (
    CLASS_COUNTS,
    EVALUATE,
    STATISTICS,
    TRAIN,
    UNMASK,
    Header,
    read_header,
)

_AGAIN_SECONDS = 3600.0

_EVENTS = {
    CLASS_COUNTS: "answered",
    STATISTICS: "answered",
    TRAIN: "trained",
    EVALUATE: "evaluated",
    UNMASK: "unmasked",
}
"""What is made of data, and what lays a sum open; the exchanges between are not told."""


def recorded(app: ClientApp, file: Path) -> Callable[[str, RecordDict], RecordDict]:
    """The app as a function of type and content, sums and refusals with a line in the log."""
    log = AuditLog(file)
    refusals = Refusals(log)

    def answer(kind: str, content: RecordDict) -> RecordDict:
        message, context = request_of(kind, content)
        header = None
        try:
            header = read_header(content)
            formed: RecordDict = app(message, context).content
        except WardroundError as error:
            refusals.note(kind, header, error)
            raise
        if kind in _EVENTS:
            log.append(_EVENTS[kind], question=_word(kind), run=header.run, round=header.round)
        return formed

    return answer


class Refusals:
    """Lines about refusals; the same one again and again has one line an hour."""

    def __init__(self, log: AuditLog, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._last: tuple[object, ...] = ()
        self._next = 0.0

    def note(self, kind: str, header: Header | None, error: WardroundError) -> None:
        """Note a refusal, unless it was noted just now."""
        about = (kind, header, str(error))
        if about == self._last and self._clock() < self._next:
            return
        self._last, self._next = about, self._clock() + _AGAIN_SECONDS
        reason = error if error.may_leave_site else Told(type(error).__name__)
        if header is None:
            self._log.append("refused", question=_word(kind), reason=reason)
        else:
            self._log.append(
                "refused", question=_word(kind), run=header.run, round=header.round, reason=reason
            )


def _word(kind: str) -> str:
    """A message type as the log has it: `query.hello` is `hello`."""
    word = kind.rpartition(".")[2]
    return word if word.replace("_", "").isalnum() and word.islower() else "unknown"
