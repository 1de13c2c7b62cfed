"""What is wrong with an audit log, offline.

The chain shows every change inside the log. It cannot show that its end is missing, or that all of
it was written anew: for that a head has to be kept elsewhere.
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from wardround_shared.audit_log.line import (
    LARGEST_LINE,
    START,
    Head,
    fault_of,
    head_of,
    read_line,
)
from wardround_shared.errors import AuditError


def verify(path: Path, *, known: Head | None = None) -> tuple[str, ...]:
    """Every fault of a log, one sentence each with the line's number; none = it is sound.

    Args:
        path: of the log.
        known: a head that was written down before: the log still has to have that very line.
    """
    try:
        return tuple(_faults(path, known))
    except AuditError as error:
        return (str(error),)


def head(path: Path) -> Head | None:
    """The head of a log, to be written down elsewhere; None if there is no line.

    Raises:
        AuditError: it cannot be read, or a line is not what was written.
    """
    last: Head | None = None
    for content in entries(path):
        last = head_of(content)
    return last


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """What the lines say, in order.

    Raises:
        AuditError: the log cannot be read, or a line is not what was written.
    """
    for number, line in _lines(path):
        content = read_line(line[:-1]) if line.endswith(b"\n") else None
        if content is None or head_of(content) is None:
            raise AuditError(f"{path}: line {number} is not what was written.")
        yield content


def _faults(path: Path, known: Head | None) -> Iterator[str]:
    before: Head | None = None
    whole, seen = 0, False
    for number, line in _lines(path):
        if not line.endswith(b"\n"):
            yield (
                f"Line {number} is cut off: by a crash while it was written, or by hand; the next "
                "event says so and takes it away."
            )
            break
        whole = number
        content = read_line(line[:-1])
        here = None if content is None else head_of(content)
        if content is None or here is None:
            yield f"Line {number} was edited or damaged: its content does not give its hash."
            before = _unknown(number)
            continue
        yield from _chain_faults(number, content, here, before)
        if fault := fault_of(content):
            yield f"Line {number} cannot have been written by this software: {fault}."
        before, seen = here, seen or here == known
    if whole == 0:
        yield f"{path}: there is no line in this log: nothing was ever written, or all is gone."
    if known is not None and not seen:
        yield _missing(known, whole)


def _chain_faults(
    number: int, content: dict[str, Any], here: Head, before: Head | None
) -> Iterator[str]:
    expected = 1 if before is None else before.number + 1
    if here.number != expected:
        yield (
            f"Line {number} has the number {here.number} and {expected} was to come: lines were "
            "removed, inserted or put in another order."
        )
    elif before is not None and not before.hash:
        return  # after an edited line, of which it is not known what it said
    elif content.get("previous") != (START if before is None else before.hash):
        yield (
            f"Line {number} does not follow the line before it: one of them was written by "
            "somebody else."
        )


def _unknown(number: int) -> Head:
    """Stands for a line whose hash is not known."""
    return Head(number=number, hash="")


def _missing(known: Head, lines: int) -> str:
    if known.number > lines:
        return (
            f"Line {known.number} was there when its head was written down, and the log ends "
            f"after line {lines}: its end was cut off, or an older copy was put in its place."
        )
    return (
        f"Line {known.number} is another one than that of which the head was written down: the "
        "log was written anew from there or before."
    )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line with its number from 1 and its end, as far as they are written now."""
    try:
        with path.open("rb") as file:
            left, number = _size(file), 0
            while left > 0 and (line := file.readline(min(left, LARGEST_LINE))):
                number += 1
                left -= len(line)
                yield number, line
    except FileNotFoundError:
        raise AuditError(f"{path}: there is no audit log here.") from None
    except OSError as error:
        raise AuditError(f"{path}: the audit log cannot be read ({error.strerror}).") from error


def _size(file: BinaryIO) -> int:
    """Bytes of whole lines. The lock is not kept: whoever reads may append meanwhile."""
    fcntl.flock(file, fcntl.LOCK_SH)
    try:
        return os.fstat(file.fileno()).st_size
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
