"""Large byte strings cross process borders in shared memory, all else as a pickle beside them.

A Flower ``Array`` is a byte string with a shape, so that this is the way of models and updates.
The parent process owns every segment: it names them all, those that a worker makes for a reply
too, and unlinks them. What the parent leaves behind when it is killed, the resource tracker of
:mod:`multiprocessing` unlinks; that is why segments stay registered with it.
"""

from __future__ import annotations

import io
import itertools
import os
import pickle
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr.app import RecordDict

# Below this many bytes a pipe is as fast as a segment (measured; both take some 0.1 ms).
LARGE = 64 * 1024

# Segments that a worker's replies take in turn.
_TURNS = 2

Place = tuple[str, int, int]  # segment, offset in bytes, length in bytes


def pack(value: object, place: Callable[[bytes], Place | None]) -> bytes:
    """Return a pickle of `value` in which large byte strings stand where `place` puts them.

    A byte string for which `place` returns None stays in the pickle.
    """
    buffer = io.BytesIO()
    _Pickler(buffer, place).dump(value)
    return buffer.getvalue()


def unpack(data: bytes, fetch: Callable[[Place], bytes]) -> Any:
    """Return the value that was packed; `data` comes from a process that we started ourselves."""
    return _Unpickler(io.BytesIO(data), fetch).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, place: Callable[[bytes], Place | None]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._place = place

    def persistent_id(self, value: object) -> Place | None:
        if type(value) is bytes and len(value) >= LARGE:
            return self._place(value)
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, fetch: Callable[[Place], bytes]) -> None:
        super().__init__(file)
        self._fetch = fetch

    def persistent_load(self, place: Place) -> bytes:
        return self._fetch(place)


def large_bytes(records: RecordDict) -> list[bytes]:
    """Return the large byte strings in a message's content or a node's state."""
    values = (value for record in records.values() for value in record.values())
    data = (getattr(value, "data", value) for value in values)
    return [item for item in data if type(item) is bytes and len(item) >= LARGE]


class Names:
    """Names of segments that nobody else on this machine has; short, as macOS wants them."""

    def __init__(self) -> None:
        self.prefix = f"wr-{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)

    def new(self) -> str:
        """Return a name that was never used."""
        return f"{self.prefix}-{next(self._numbers)}"


@dataclass(kw_only=True)
class _Held:
    data: bytes
    uses: int = 0
    segment: SharedMemory | None = None


class Outgoing:
    """The parent's byte strings on their way to workers.

    Each lies once in shared memory, however many messages hold it: the model of a round is the
    same object in all of them. It is there from the first message sent to the last one answered.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._held: dict[int, _Held] = {}  # by identity: bytes never change

    def hold(self, data: bytes) -> None:
        """Note that one more message needs `data`."""
        self._held.setdefault(id(data), _Held(data=data)).uses += 1

    def release(self, data: bytes) -> None:
        """Note that one message less needs `data`; after the last one its segment is unlinked."""
        held = self._held[id(data)]
        held.uses -= 1
        if held.uses == 0:
            del self._held[id(data)]
            _unlink(held.segment)

    def place(self, data: bytes) -> Place | None:
        """Return where workers find `data`, which is put there on the first call."""
        held = self._held.get(id(data))
        if held is None:
            return None
        if held.segment is None:
            if not _room_for(len(data)):
                return None
            held.segment = SharedMemory(self._names.new(), create=True, size=len(data))
            _bytes_of(held.segment)[: len(data)] = data
        return held.segment.name, 0, len(data)

    def close(self) -> None:
        """Unlink every segment that is left."""
        while self._held:
            _unlink(self._held.popitem()[1].segment)


class Incoming:
    """A worker's view of what the parent sent.

    Byte strings are kept by segment for the next message, which mostly has the same model.
    """

    def __init__(self) -> None:
        self._cache: dict[str, bytes] = {}
        self._used: set[str] = set()

    def unpack(self, data: bytes) -> Any:
        """Return the packed value and forget the byte strings that it did not mention."""
        self._used.clear()
        value = unpack(data, self._fetch)
        self._cache = {name: self._cache[name] for name in self._used}
        return value

    def _fetch(self, place: Place) -> bytes:
        name = place[0]
        self._used.add(name)
        if name not in self._cache:
            self._cache[name] = _read(place)
        return self._cache[name]


class ReplyWriter:
    """A worker's two segments for replies, in turn.

    A reply overwrites the last but one. That was read by then, since no worker has more than two
    orders at a time. Segments grow and are never given up: touching new pages costs more than
    copying into old ones.
    """

    def __init__(self) -> None:
        self._segment: SharedMemory | None = None
        self._last: SharedMemory | None = None

    def pack(self, value: object, data: Sequence[bytes], name: str) -> bytes:
        """Return a pickle of `value`, with those byte strings of it that are `data` in the segment.

        If that is too small there will be a new one, called `name`.
        """
        places: dict[int, Place] = {}
        if data and self._takes_turn(sum(map(len, data)), name):
            assert self._segment is not None
            offset = 0
            for item in data:
                _bytes_of(self._segment)[offset : offset + len(item)] = item
                places[id(item)] = (self._segment.name, offset, len(item))
                offset += len(item)
        return pack(value, lambda item: places.get(id(item)))

    def _takes_turn(self, size: int, name: str) -> bool:
        """Make the other segment the present one, unless there is no room for what it is to hold.

        A reply through the pipe takes no turn, or the reader would lose count.
        """
        self._segment, self._last = self._last, self._segment
        fits = self._fits(size, name)
        if not fits:
            self._segment, self._last = self._last, self._segment
        return fits

    def _fits(self, size: int, name: str) -> bool:
        if self._segment is not None and self._segment.size >= size:
            return True
        if not _room_for(size):
            return False
        if self._segment is not None:
            self._segment.close()  # the parent unlinks it when it hears of the new one
        self._segment = SharedMemory(name, create=True, size=size)
        return True


class ReplyReader:
    """The parent's side of one worker's segments."""

    def __init__(self) -> None:
        self._segments: dict[str, SharedMemory] = {}  # the last one used at the end

    def unpack(self, data: bytes) -> Any:
        """Return what the worker packed."""
        return unpack(data, self._fetch)

    def close(self) -> None:
        """Unlink the segments."""
        while self._segments:
            _unlink(self._segments.popitem()[1])

    def _fetch(self, place: Place) -> bytes:
        name, offset, length = place
        segment = self._segments.pop(name, None) or SharedMemory(name)
        self._segments[name] = segment
        if len(self._segments) > _TURNS:
            # The worker has outgrown it.
            _unlink(self._segments.pop(next(iter(self._segments))))
        return bytes(_bytes_of(segment)[offset : offset + length])


def discard(name: str) -> None:
    """Unlink the segment called `name` if there is one, as a killed worker may have made it."""
    try:
        _unlink(SharedMemory(name))
    except FileNotFoundError:
        return


def _read(place: Place) -> bytes:
    name, offset, length = place
    segment = SharedMemory(name)
    try:
        return bytes(_bytes_of(segment)[offset : offset + length])
    finally:
        segment.close()


def _bytes_of(segment: SharedMemory) -> memoryview:
    assert segment.buf is not None, "it is None only after close"
    return segment.buf


def _unlink(segment: SharedMemory | None) -> None:
    if segment is not None:
        segment.close()
        segment.unlink()


def _room_for(size: int) -> bool:
    """Tell whether a segment fits: writing past the end of a full /dev/shm kills the process.

    Containers often have 64 MB there. What does not fit goes through the pipe.
    """
    folder = "/dev/shm"  # noqa: S108  (asked for its size, never written to)
    if sys.platform != "linux" or not os.path.isdir(folder):  # noqa: PTH112
        return True
    return shutil.disk_usage(folder).free > size + (1 << 20)
