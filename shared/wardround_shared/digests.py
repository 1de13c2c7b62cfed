"""One hash over a list of fields, so that no two lists of fields give the same bytes.

Names and arrays come from the other side: joined by a separator, one field could be made to look
like two. So every field has its kind and its length before it.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_LENGTH_BYTES = 8


class FieldDigest:
    """SHA-256 over fields; each is its kind (1 byte), its length (8, big-endian) and its bytes."""

    def __init__(self, label: str) -> None:
        """Begin with a label that says what is hashed, and in which version."""
        self._hash = hashlib.sha256()
        self.text(label)

    def text(self, value: str) -> None:
        """A text, in UTF-8."""
        self._field(b"t", value.encode("utf-8", "surrogatepass"))

    def number(self, value: int) -> None:
        """A whole number of any size, in decimal."""
        self._field(b"n", str(value).encode())

    def array(self, value: NDArray[np.generic]) -> None:
        """An array: type with byte order, shape, and values in C order."""
        self.text(value.dtype.str)
        self.number(value.ndim)
        for size in value.shape:
            self.number(size)
        # Flat and not copied; a view of bytes, since an empty array has no other buffer to give.
        self._field(b"a", np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)

    def digest(self) -> bytes:
        """The hash, 32 bytes."""
        return self._hash.digest()

    def hexdigest(self) -> str:
        """The hash, 64 letters."""
        return self._hash.hexdigest()

    def _field(self, kind: bytes, data: bytes | memoryview) -> None:
        self._hash.update(kind + len(data).to_bytes(_LENGTH_BYTES, "big"))
        self._hash.update(data)
