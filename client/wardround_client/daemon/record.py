"""What the worker's answers leave in the audit log."""

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

    def answer(kind: str, content: RecordDict) -> RecordDict:
        message, context = request_of(kind, content)
        header = None
        try:
            header = read_header(content)
            formed: RecordDict = app(message, context).content
        except WardroundError as error:
            _refused(log, kind, header, error)
            raise
        if kind in _EVENTS:
            log.append(_EVENTS[kind], question=_word(kind), run=header.run, round=header.round)
        return formed

    return answer


def _refused(log: AuditLog, kind: str, header: Header | None, error: WardroundError) -> None:
    reason = error if error.may_leave_site else Told(type(error).__name__)
    if header is None:
        log.append("refused", question=_word(kind), reason=reason)
    else:
        log.append(
            "refused", question=_word(kind), run=header.run, round=header.round, reason=reason
        )


def _word(kind: str) -> str:
    """A message type as the log has it: `query.hello` is `hello`."""
    word = kind.rpartition(".")[2]
    return word if word.replace("_", "").isalnum() and word.islower() else "unknown"
