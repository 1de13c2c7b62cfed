"""Strict binary reading and writing: one encoding of every value, and nothing may be left over.

Integers are big-endian; texts and byte strings have their length before them. Lists have their
length before them and are in rising order of the site that each item is about.
"""

import itertools
from collections.abc import Callable, Sequence

from wardround_shared.secure_aggregation.faults import MessageError

MAX_SITES = 1024

TEXT_BYTES = 255
"""Longest study id, run or site name, in bytes of UTF-8."""


class Writer:
    """Collects the parts of an encoding."""

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = []

    def u8(self, value: int) -> None:
        """One byte."""
        self._integer(value, 1)

    def u16(self, value: int) -> None:
        """Two bytes."""
        self._integer(value, 2)

    def u32(self, value: int) -> None:
        """Four bytes."""
        self._integer(value, 4)

    def fixed(self, value: bytes | memoryview, size: int) -> None:
        """Bytes of a length that both sides know."""
        if len(value) != size:
            raise MessageError(f"A field of {size} bytes was given {len(value)}.")
        self._parts.append(value)

    def short(self, value: bytes, limit: int) -> None:
        """Length (2 bytes) and bytes."""
        if len(value) > limit:
            raise MessageError(f"A field of at most {limit} bytes was given {len(value)}.")
        self.u16(len(value))
        self._parts.append(value)

    def text(self, value: str) -> None:
        """Length (2 bytes) and UTF-8."""
        try:
            self.short(value.encode(), TEXT_BYTES)
        except UnicodeEncodeError as error:
            raise MessageError("A name is not valid text.") from error

    def finish(self) -> bytes:
        """The encoding."""
        return b"".join(self._parts)

    def _integer(self, value: int, size: int) -> None:
        try:
            self._parts.append(value.to_bytes(size, "big"))
        except OverflowError as error:
            raise MessageError(f"A number does not fit into {size} bytes: {value}.") from error


class Reader:
    """Reads an encoding from its start; every method raises `MessageError` at its end."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B") if len(data) else memoryview(b"")
        self._at = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def view(self, size: int) -> memoryview:
        """The next `size` bytes, not copied."""
        if size > self.remaining:
            raise MessageError("A message is truncated.")
        self._at += size
        return self._data[self._at - size : self._at]

    def u8(self) -> int:
        """One byte."""
        return self.view(1)[0]

    def u16(self) -> int:
        """Two bytes."""
        return int.from_bytes(self.view(2), "big")

    def u32(self) -> int:
        """Four bytes."""
        return int.from_bytes(self.view(4), "big")

    def fixed(self, size: int) -> bytes:
        """Bytes of a length that both sides know."""
        return bytes(self.view(size))

    def short(self, limit: int) -> bytes:
        """Length (2 bytes) and bytes."""
        size = self.u16()
        if size > limit:
            raise MessageError(f"A message is malformed: {size} bytes where at most {limit} fit.")
        return self.fixed(size)

    def text(self) -> str:
        """Length (2 bytes) and UTF-8."""
        try:
            return self.short(TEXT_BYTES).decode()
        except UnicodeDecodeError as error:
            raise MessageError("A message is malformed: a name is not valid text.") from error

    def end(self) -> None:
        """Nothing may follow."""
        if self.remaining:
            raise MessageError(f"A message has {self.remaining} bytes more than it should.")


def write_sites(writer: Writer, sites: Sequence[int]) -> None:
    """Append indices of sites."""
    check_rising(sites)
    writer.u16(len(sites))
    for site in sites:
        writer.u16(site)


def read_sites(reader: Reader) -> tuple[int, ...]:
    """The inverse of `write_sites`."""
    sites = tuple(reader.u16() for _ in range(read_count(reader)))
    check_rising(sites)
    return sites


def write_pairs(
    writer: Writer, pairs: Sequence[tuple[int, bytes]], write: Callable[[bytes], None]
) -> None:
    """Append (index of a site, value), each value by `write`."""
    check_rising([site for site, _ in pairs])
    writer.u16(len(pairs))
    for site, value in pairs:
        writer.u16(site)
        write(value)


def read_pairs(reader: Reader, read: Callable[[], bytes]) -> tuple[tuple[int, bytes], ...]:
    """The inverse of `write_pairs`."""
    pairs = tuple((reader.u16(), read()) for _ in range(read_count(reader)))
    check_rising([site for site, _ in pairs])
    return pairs


def read_count(reader: Reader) -> int:
    """The length of a list."""
    count = reader.u16()
    if count > MAX_SITES:
        raise MessageError(f"A message lists {count} sites; {MAX_SITES} is the most.")
    return count


def check_rising(sites: Sequence[int]) -> None:
    """A list has one order and no repetition, so that it has one encoding."""
    if any(later <= earlier for earlier, later in itertools.pairwise(sites)):
        raise MessageError("A message is malformed: its sites are not in rising order.")
    if sites and not 0 <= sites[0] <= sites[-1] < MAX_SITES:
        raise MessageError(f"A message names site {sites[-1]}; {MAX_SITES} is the most.")
