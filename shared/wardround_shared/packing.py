"""A message's records as one string of bytes, for the wire and for the disk.

Flower carries each record and each array of a message as an object of its own, at several requests
an object; a small message is many times faster in one piece. Layout: length of the header (4 bytes,
big-endian), header (JSON), then the arrays' bytes as Flower has them, one after the other.
"""

import base64
import json
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from wardround_shared.errors import ProtocolError

_LENGTH = 4
_LARGEST_HEADER = 1 << 24


def data_size(content: RecordDict) -> int:
    """Bytes of all arrays and byte strings in a message."""
    total = 0
    for record in content.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord):
            total += sum(len(v) for v in record.values() if isinstance(v, bytes | str))
    return total


def pack(content: RecordDict) -> list[bytes]:
    """The message as buffers to be written one after the other."""
    header: dict[str, Any] = {}
    buffers: list[bytes] = []
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            header[name] = {
                "arrays": [
                    [key, array.dtype, list(array.shape), array.stype, len(array.data)]
                    for key, array in record.items()
                ]
            }
            buffers += [array.data for array in record.values()]
        elif isinstance(record, ConfigRecord):
            header[name] = {"values": {key: _plain(value) for key, value in record.items()}}
        else:
            raise TypeError(f"a message with a record of type {type(record).__name__}")
    encoded = json.dumps(header).encode()
    return [len(encoded).to_bytes(_LENGTH, "big"), encoded, *buffers]


def unpack(data: bytes) -> RecordDict:
    """The inverse of `pack`, for bytes from anywhere.

    Raises:
        ProtocolError: malformed, or with anything left over.
    """
    try:
        return _unpack(data)
    # A deeply nested header ends in a RecursionError.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ProtocolError("A message is malformed: it cannot be unpacked.") from error


def _unpack(data: bytes) -> RecordDict:
    length = int.from_bytes(data[:_LENGTH], "big")
    place = _LENGTH + length
    if length > _LARGEST_HEADER or place > len(data):
        raise ValueError("a header of another length")
    content = RecordDict()
    for name, record in json.loads(data[_LENGTH:place]).items():
        if "values" in record:
            values = {key: _from_plain(value) for key, value in record["values"].items()}
            content[name] = ConfigRecord(values)
            continue
        arrays = {}
        for key, dtype, shape, stype, size in record["arrays"]:
            if not isinstance(size, int) or not 0 <= size <= len(data) - place:
                raise ValueError("an array of another length")
            arrays[key] = Array(dtype, tuple(shape), stype, data[place : place + size])
            place += size
        content[name] = ArrayRecord(arrays)
    if place != len(data):
        raise ValueError("bytes are left over")
    return content


def _plain(value: Any) -> Any:
    """JSON knows no bytes."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


def _from_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["bytes"], validate=True)
    if isinstance(value, list):
        return [_from_plain(one) for one in value]
    return value
