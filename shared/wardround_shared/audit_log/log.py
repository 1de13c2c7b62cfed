"""The file of the audit log: whole lines at its end, on the disk itself when `append` returns.

Only the tail is ever read, so that a log of years is as quick as a new one. Several processes may
append: each holds the file's lock (flock) from reading the tail to the end of writing. The file
has to lie on a disk of this machine.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from wardround_shared.audit_log.line import (
    LARGEST_LINE,
    Head,
    check,
    field_name,
    head_of,
    new_line,
    read_line,
    reason_of,
)
from wardround_shared.errors import AuditError

Value = str | int | float | BaseException | datetime


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class _Tail:
    """Where the next line goes, what it follows, and how many bytes of half a line lie there."""

    place: int
    head: Head | None
    torn: int


class AuditLog:
    """Appends events to one log. Holds no file open, so it may be kept across a fork."""

    def __init__(self, path: Path, *, now: Callable[[], datetime] = _now) -> None:
        """A log that may not be there yet; the folder has to be.

        Args:
            path: of the file.
            now: the clock.
        """
        self._path = path
        self._now = now

    def append(self, event: str, **fields: Value) -> Head:
        """Write one line; it is on the disk when this returns.

        Args:
            event: one of `EVENTS`.
            fields: of `FIELDS`, with `_` for `-`; `reason` is an error, of which only a sentence
                that may leave a site is written, or `Told`; a time may be a datetime.

        Returns:
            The head that the log has now.

        Raises:
            AuditError: the disk is full, the file cannot be written, its last line is not what was
                written, or a field does not hold what it may; nothing was appended.
            ValueError: no such event or field.
            TypeError: a reason that is neither.
        """
        given = {field_name(name): _plain(field_name(name), fields[name]) for name in fields}
        check(event, given)
        with self._locked() as file:
            tail = self._tail(file)
            lines, head = b"", tail.head
            if tail.torn:
                lines, head = new_line("mended", {"bytes": tail.torn}, after=head, time=self._now())
            line, head = new_line(event, given, after=head, time=self._now())
            self._write(file, tail, lines + line)
        return head

    def require_appendable(self) -> None:
        """Refuse before a change is made whose line could not be appended; nothing is written.

        Raises:
            AuditError: the file or its folder cannot be written, or the last line is not what was
                written. A disk that fills up meanwhile is only found by `append`.
        """
        if not os.path.lexists(self._path):
            folder = self._path.absolute().parent
            if not os.access(folder, os.W_OK | os.X_OK):
                raise AuditError(
                    f"{self._path}: the audit log cannot be made there; see to the folder, or name "
                    "another one."
                )
            return
        with self._locked() as file:
            self._tail(file)

    # --- parts -------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            file, new = self._open()
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield file
                if new:
                    _sync_folder(self._path.absolute().parent)
            finally:
                os.close(file)
        except OSError as error:
            raise AuditError(f"{self._path}: {_reason(error)}.") from error

    def _open(self) -> tuple[int, bool]:
        """The file, and whether it was made: a name in a folder needs a sync of its own."""
        new = not self._path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self._path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise AuditError(f"{self._path}: the audit log has to be a file.")
        return file, new

    def _tail(self, file: int) -> _Tail:
        size = os.fstat(file).st_size
        start = max(0, size - 2 * LARGEST_LINE)
        read = _read(file, start, size - start)
        whole, _, torn = read.rpartition(b"\n")
        # Lines are in the file in the order of writing, but a power cut may have kept a line's end
        # and lost its beginning, which then reads as zero bytes.
        last = whole[whole.rfind(b"\n") + 1 :]
        if b"\0" in last:
            torn, whole = last + b"\n" + torn, whole[: len(whole) - len(last)].removesuffix(b"\n")
            last = whole[whole.rfind(b"\n") + 1 :]
        place = size - len(torn)
        if place == 0:
            return _Tail(place=0, head=None, torn=len(torn))
        content = read_line(last)
        head = None if content is None else head_of(content)
        if head is None:
            raise AuditError(
                f"{self._path}: the last line is not what was written; keep the file as it is and "
                "see docs/audit-log.md."
            )
        return _Tail(place=place, head=head, torn=len(torn))

    def _write(self, file: int, tail: _Tail, lines: bytes) -> None:
        """Write at the tail, all of it or nothing."""
        try:
            done = 0
            while done < len(lines):
                done += _taken(os.pwrite(file, lines[done:], tail.place + done))
            os.ftruncate(file, tail.place + len(lines))
            os.fsync(file)
        except OSError:
            if not tail.torn:  # what was torn before stays torn, and is mended the next time
                os.ftruncate(file, tail.place)
            raise


def _plain(name: str, value: Value) -> str | int | float:
    if name == "reason":
        return reason_of(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    if isinstance(value, BaseException):
        raise TypeError(f"an error is no value of {name}")
    return value


def _read(file: int, place: int, count: int) -> bytes:
    pieces = []
    while count > 0 and (piece := os.pread(file, count, place)):
        pieces.append(piece)
        place, count = place + len(piece), count - len(piece)
    return b"".join(pieces)


def _taken(count: int) -> int:
    if count == 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return count


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _reason(error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "the disk is full; free some space, nothing goes on without its audit log"
    if error.errno == errno.ELOOP:
        return "the audit log is a link; put the file itself there"
    return f"the audit log cannot be written ({error.strerror})"
