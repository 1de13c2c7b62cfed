"""What a line of the audit log says, and how lines hold together.

A line is canonical JSON: sorted keys, no blanks, ASCII. Its hash is SHA-256 over a label and the
line without its hash; "previous" is the hash of the line before. No clock and no disk here.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from wardround_shared.errors import AuditError, WardroundError

LARGEST_LINE = 16_384
"""Bytes of the longest line that can be; a tail without a line's end in it is damaged."""

START = "0" * 64
"""What the first line gives as the hash before it."""

EVENTS: Mapping[str, str] = {
    # membership
    "made": "a home was made",
    "requested": "a site wrote a request to join",
    "admitted": "the server admitted a site",
    "joined": "a site accepted the server's answer",
    "revoked": "a site was taken off the roster",
    "roster": "another version of the roster holds",
    "keys": "keys were made or changed",
    "certificate": "a certificate was made or changed",
    # decisions
    "data-set": "a data set was named",
    "deidentified": "copies of images without identifiers were to be written",
    "policy": "the policy was read",
    "submitted": "a study was given to the server",
    "offered": "a study was offered to the site",
    "approved": "the site's staff approved a study",
    "refused-study": "the site's staff refused a study",
    # processes
    "started": "a process was started",
    "stopped": "a process was ended",
    "restarted": "a process was started again after it had died",
    # runs
    "resumed": "a run goes on after an interruption",
    "paused": "a run waits for sites",
    "finished": "a run ended",
    "failed": "a run or a process could not go on",
    "round": "a round was closed",
    "reserved": "privacy was paid for, before the training",
    "trained": "a round was trained",
    "evaluated": "a model was evaluated",
    "answered": "an answer left the site, or came in",
    "repeated": "a stored answer left the site again",
    "unmasked": "the shares for a sum left the site",
    "refused": "a request was refused",
    "dropped": "a site was left out",
    "returned": "a site takes part again",
    "exported": "a run's result was copied out",
    # the log itself
    "mended": "a line that was cut off by a crash was taken away",
}
"""Every event and what it means; there are no others."""

# What only the chain sets.
_OWN = ("number", "time", "event", "previous", "hash")
_HEX = re.compile(r"[0-9a-f]{1,128}")
_WORD = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")
_FINGERPRINT = re.compile(r"[0-9A-Za-z:+/= -]{8,256}")
# The beginning of an absolute path, of either kind, wherever it stands in a sentence.
_PATH = re.compile(r"(?:^|[\s'\"(])(?:[~/]|[A-Za-z]:\\|\\\\)\S")
_LONGEST_NAME, _LONGEST_SENTENCE = 128, 500


class Told(str):
    """A sentence that another side has sent; what of it is printable may stand as a reason."""

    __slots__ = ()


def _site(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()


def _name(value: object) -> bool:
    return _site(value) and not set("/\\") & set(str(value))


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _measure(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value < 2**63 and math.isfinite(value)


def _sentence(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_SENTENCE and value.isprintable()


def _moment(value: object) -> bool:
    return isinstance(value, str) and read_time(value) is not None


def _of(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


FIELDS: Mapping[str, Callable[[object], bool]] = {
    "site": _site,
    "sites": _count,
    "study": _of(_HEX),
    "study-name": _of(_WORD),
    "run": _name,
    "round": _count,
    "attempt": _count,
    "question": _of(_WORD),
    "data-set": _name,
    "project": _of(_WORD),
    "reservation": _count,
    "ledger": _of(_HEX),
    "epsilon": _measure,
    "delta": _measure,
    "version": _count,
    "software": _of(_VERSION),
    "protocol": _count,
    "process": _of(_WORD),
    "exit": lambda value: _count(value) or (isinstance(value, int) and -256 < value < 0),
    "key": _of(_WORD),
    "fingerprint": _of(_FINGERPRINT),
    "digest": _of(_HEX),
    "until": _moment,
    "seconds": _measure,
    "bytes": _count,
    "reason": _sentence,
}
"""Every field that an event may carry, and what is allowed in it: nothing that a patient is in."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The last line of a log: to be written down elsewhere, so that a cut-off tail is noticed.

    >>> str(Head.parse("12:" + "ab" * 32))[:10]
    '12:abababa'
    """

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str`.

        Raises:
            AuditError: it is none.
        """
        found = re.fullmatch(r"([1-9][0-9]{0,17}):([0-9a-f]{64})", text.strip())
        if found is None:
            raise AuditError(
                f"{text[:80]!r} is no head of an audit log; it is a number, a colon and 64 letters."
            )
        return cls(number=int(found[1]), hash=found[2])


def new_line(
    event: str, fields: Mapping[str, Any], *, after: Head | None, time: datetime
) -> tuple[bytes, Head]:
    """The line that follows, with its end, and the head that it makes; `fields` were checked."""
    number, previous = (1, START) if after is None else (after.number + 1, after.hash)
    content = {
        **fields,
        "number": number,
        "time": time.astimezone(UTC).isoformat(timespec="milliseconds"),
        "event": event,
        "previous": previous,
    }
    digest = hash_of(content)
    return canonical({**content, "hash": digest}) + b"\n", Head(number=number, hash=digest)


def check(event: str, fields: Mapping[str, Any]) -> None:
    """Refuse what no line may say.

    Raises:
        ValueError: no such event, or no such field.
        AuditError: a field does not hold what it may.
    """
    if event not in EVENTS:
        raise ValueError(f"there is no event {event!r}")
    for name, value in fields.items():
        if name not in FIELDS:
            raise ValueError(f"there is no field {name!r}")
        if not FIELDS[name](value):
            # Without the value, which may be what must not stand in a log.
            raise AuditError(
                f"The audit log takes no such value for {name} ({type(value).__name__}); the "
                f"event {event} was not written."
            )


def field_name(name: str) -> str:
    """A keyword argument as the field that it means."""
    return name.replace("_", "-")


def reason_of(given: object) -> str:
    """What may stand as a reason: a sentence that may leave a site, else the error's class.

    Raises:
        TypeError: it is neither an error nor `Told`.
    """
    if isinstance(given, Told):
        sentence, otherwise = str(given), "a sentence with a path in it"
    elif isinstance(given, BaseException):
        otherwise = type(given).__name__
        may = isinstance(given, WardroundError) and given.may_leave_site
        sentence = str(given) if may else otherwise
    else:
        raise TypeError("a reason is an error, or Told what another side has said")
    if _PATH.search(sentence):
        return otherwise
    shown = "".join(letter if letter.isprintable() else "?" for letter in sentence)
    return shown[:_LONGEST_SENTENCE]


def canonical(content: Mapping[str, Any]) -> bytes:
    """The one form of a line, without its end."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def hash_of(content: Mapping[str, Any]) -> str:
    """Hash of a line; of its own hash it takes no notice."""
    bare = {name: value for name, value in content.items() if name != "hash"}
    return hashlib.sha256(b"wardround/audit/1\n" + canonical(bare)).hexdigest()


def read_line(line: bytes) -> dict[str, Any] | None:
    """Content of a line without its end; None if it is not in the one form, or has not its hash."""
    try:
        content = json.loads(line)
        fits = (
            isinstance(content, dict)
            and canonical(content) == line
            and content.get("hash") == hash_of(content)
        )
    except (ValueError, RecursionError):
        return None
    return content if fits else None


def head_of(content: Mapping[str, Any]) -> Head | None:
    """The head that a line makes; None if it lacks what the chain needs."""
    number, digest = content.get("number"), content.get("hash")
    if not _count(number) or not isinstance(number, int) or not isinstance(digest, str):
        return None
    return Head(number=number, hash=digest)


def fault_of(content: Mapping[str, Any]) -> str | None:
    """What a line says that no line may say, as a phrase; None = nothing."""
    if read_time(content.get("time")) is None:
        return "its time is not one in UTC"
    event = content.get("event")
    if not isinstance(event, str) or event not in EVENTS:
        return "its event is none that this version knows"
    for name, value in content.items():
        if name not in _OWN and not (name in FIELDS and FIELDS[name](value)):
            return f"its field {str(name)[:40]!r} is not one that this version knows"
    return None


def read_time(text: object) -> datetime | None:
    """A time in UTC, as lines have it; None if it is none."""
    try:
        time = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return time if time is not None and time.tzinfo == UTC else None
