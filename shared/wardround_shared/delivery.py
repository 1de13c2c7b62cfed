"""How a request is carried until its answer is there, whatever is restarted on the way.

Each request has a ticket. A site that is not done after a moment answers with how far it is; the
server then asks for the answer by its ticket. A site that knows no such ticket, since it was
restarted before it had an answer, gets the request again. That a request may come twice is the
site's business: it answers a repeat from what it stored.
"""

import secrets
from dataclasses import dataclass

from flwr.app import ConfigRecord, RecordDict

from wardround_shared.errors import ProtocolError
from wardround_shared.packing import data_size, pack, unpack

COLLECT = "query.collect"
"""Message type: asks for the answer to an earlier request."""

HOLD_SECONDS = 8.0
"""How long a site lets a request wait for its answer before it says how far it is."""

LARGEST_PACKED = 1_000_000
"""Bytes of the largest message that travels in one piece; arrays of a larger one are cut up."""

_TICKET_LETTERS = 32
_TICKET, _WORKING, _UNKNOWN = "ticket", "working", "unknown"


@dataclass(frozen=True, kw_only=True)
class Working:
    """A site's word that it is at work.

    Attributes:
        stage: what it does, in a word.
        done, total: steps of that; total is 0 where it is not known.
    """

    stage: str
    done: int
    total: int


def new_ticket() -> str:
    """A ticket that no other request has."""
    return secrets.token_hex(_TICKET_LETTERS // 2)


def carried(content: RecordDict, ticket: str) -> RecordDict:
    """A request or an answer as it travels: a small one in one piece, with its ticket."""
    if data_size(content) <= LARGEST_PACKED:
        whole = b"".join(pack(content))
        return RecordDict({_TICKET: ConfigRecord({"id": ticket, "content": whole})})
    travelling = RecordDict(dict(content))
    travelling[_TICKET] = ConfigRecord({"id": ticket})
    return travelling


def opened(travelling: RecordDict) -> tuple[str, RecordDict]:
    """The ticket and the content of what has travelled.

    Raises:
        ProtocolError: there is no ticket, or it is malformed.
    """
    record = travelling.get(_TICKET)
    ticket = record.get("id") if isinstance(record, ConfigRecord) else None
    if not isinstance(record, ConfigRecord) or not isinstance(ticket, str):
        raise ProtocolError("A message is malformed: it has no ticket.")
    if len(ticket) != _TICKET_LETTERS or not _hexadecimal(ticket):
        raise ProtocolError("A message is malformed: its ticket is none.")
    whole = record.get("content")
    if isinstance(whole, bytes):
        return ticket, unpack(whole)
    return ticket, RecordDict({name: r for name, r in travelling.items() if name != _TICKET})


def working_record(working: Working) -> RecordDict:
    """Answer of a site that is not done."""
    fields = ConfigRecord({"stage": working.stage, "done": working.done, "total": working.total})
    return RecordDict({_WORKING: fields})


def read_working(content: RecordDict) -> Working | None:
    """How far the site is, if that is the answer.

    Raises:
        ProtocolError: malformed.
    """
    record = content.get(_WORKING)
    if record is None:
        return None
    if isinstance(record, ConfigRecord):
        stage, done, total = (record.get(key) for key in ("stage", "done", "total"))
        if isinstance(stage, str) and isinstance(done, int) and isinstance(total, int):
            return Working(stage=stage[:40], done=done, total=total)
    raise ProtocolError("A message is malformed: a site says that it is working, and not how far.")


def unknown_record() -> RecordDict:
    """Answer of a site that has no such ticket."""
    return RecordDict({_UNKNOWN: ConfigRecord({})})


def is_unknown(content: RecordDict) -> bool:
    """Whether the site has no such ticket."""
    return _UNKNOWN in content


def _hexadecimal(text: str) -> bool:
    return all(letter in "0123456789abcdef" for letter in text)
