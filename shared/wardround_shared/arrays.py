"""numpy arrays in Flower's messages: the same bytes as `Array(ndarray)` makes, without its copies.

Flower writes and parses an npy header for each array and copies what follows. A message has many
small arrays and one large one, and the headers are always the same few.
"""

import functools
import io
import re

import numpy as np
from flwr.app import Array
from numpy.lib import format as npy
from numpy.typing import NDArray

from wardround_shared.errors import ProtocolError

_KIND = "numpy.ndarray"
"""What Flower calls the npy format."""
_PREFIX = 10
"""Bytes of an npy file of version 1 before its header: magic, version, length of the header."""
_DESCRIBED = re.compile(
    rb"'descr': '(?P<dtype>[<|][biuf][1-8])', 'fortran_order': False, "
    rb"'shape': \((?P<shape>[0-9, ]{0,100})\)"
)


def to_message(array: NDArray[np.generic]) -> Array:
    """The array as Flower sends it."""
    whole = np.ascontiguousarray(array)
    data = b"".join((_header(whole.dtype.str, array.shape), whole.data))
    return Array(str(whole.dtype), array.shape, _KIND, data)


def from_message(sent: Array) -> NDArray[np.generic]:
    """The array that was sent, read-only: a view of the message's own bytes.

    Raises:
        ProtocolError: it is malformed, or holds anything but numbers.
    """
    data = sent.data
    start = _PREFIX + int.from_bytes(data[8:_PREFIX], "little")
    try:
        if sent.stype != _KIND:
            raise ValueError(sent.stype)
        dtype, shape = _parsed(bytes(data[:start]))
        array = np.frombuffer(data, dtype, offset=start).reshape(shape)
    except (ValueError, TypeError) as error:
        raise ProtocolError("A message is malformed: an array cannot be decoded.") from error
    return array


@functools.lru_cache(maxsize=256)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


@functools.lru_cache(maxsize=256)
def _parsed(header: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    """Type and shape of the array that follows this npy header.

    Only the header that `to_message` would write is taken: numpy's own reader evaluates what it
    finds, and forgives much.
    """
    found = _DESCRIBED.search(header)
    if found is None:
        raise ValueError("no npy header")
    kind = found["dtype"].decode()
    shape = tuple(int(size) for size in found["shape"].split(b",") if size.strip())
    if header != _header(kind, shape):
        raise ValueError("an unusual npy header")
    return np.dtype(kind), shape
