"""What the worker's answers leave in the audit log."""

import time
from collections.abc import Callable
from pathlib import Path

from flwr.app import RecordDict
from flwr.clientapp import ClientApp

from wardround_client.flower.tasks import request_of
from wardround_shared.agreement import require_plain
from wardround_shared.audit_log import AuditLog, Sparing, Told
from wardround_shared.errors import RunError, WardroundError
from wardround_shared.messages import (
    CLASS_COUNTS,
    EVALUATE,
    STATISTICS,
    TRAIN,
    UNMASK,
    Header,
    read_header,
)

_EVENTS = {
    CLASS_COUNTS: "answered",
    STATISTICS: "answered",
    TRAIN: "trained",
    EVALUATE: "evaluated",
    UNMASK: "unmasked",
}
"""What is made of data, and what lays a sum open; the exchanges between are not told."""


def recorded(
    app: ClientApp, file: Path, *, worked: Callable[[], bool] = lambda: True
) -> Callable[[str, RecordDict], RecordDict]:
    """The app as a function of type and content, sums and refusals with a line in the log.

    Args:
        app: that answers.
        file: the audit log.
        worked: whether the last answer was formed anew, and did not come from the store.
    """
    log = AuditLog(file)
    refusals = Refusals(log)

    def answer(kind: str, content: RecordDict) -> RecordDict:
        message, context = request_of(kind, content)
        header = None
        try:
            found = read_header(content)
            require_plain(found)
            header = found
            formed: RecordDict = app(message, context).content
        except WardroundError as error:
            refusals.note(kind, header, error)
            raise
        except Exception as error:
            refusals.note(kind, header, RunError(type(error).__name__))
            raise
        anew = worked() or kind == UNMASK
        if kind in _EVENTS:
            event = _EVENTS[kind] if anew else "repeated"
            log.append(event, question=_word(kind), run=found.run, round=found.round)
        return formed

    return answer


class Refusals:
    """Lines about refusals; the same one again and again has one line an hour."""

    def __init__(self, log: AuditLog, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._sparing = Sparing(clock=clock)

    def note(self, kind: str, header: Header | None, error: WardroundError) -> None:
        """Note a refusal, unless it was noted within the hour, or so many others were."""
        if not self._sparing.worth((kind, header, str(error))):
            return
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
