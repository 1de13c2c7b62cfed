"""Key streams: AES-256 in counter mode, written into buffers that are allocated once.

W = words of a chunk.
"""

from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

RandomBytes = Callable[[int], bytes]
"""n -> n random bytes: `os.urandom` wherever somebody is to be protected; tests inject others."""

KEY_BYTES = 32

_BLOCK_BYTES = 16


class Chunk:
    """One buffer of key stream that fits into a core's cache, used by many streams in turn."""

    def __init__(self, size: int) -> None:
        self._zeros = memoryview(bytes(size))
        # The cipher's interface demands room for one block less a byte beyond what it writes.
        self._buffer = memoryview(bytearray(size + _BLOCK_BYTES - 1))

    def fill(self, stream: "KeyStream", size: int) -> memoryview:
        """The next `size` bytes of the stream; valid until the next call."""
        stream.write(self._zeros[:size], self._buffer[: size + _BLOCK_BYTES - 1])
        return self._buffer[:size]

    def words16(self, stream: "KeyStream", count: int) -> NDArray[np.uint16]:
        """The next `count` little-endian words, uint16 [W]; valid until the next call."""
        return np.frombuffer(self.fill(stream, 2 * count), dtype="<u2")

    def words32(self, stream: "KeyStream", count: int) -> NDArray[np.uint32]:
        """The next `count` little-endian words, uint32 [W]; valid until the next call."""
        return np.frombuffer(self.fill(stream, 4 * count), dtype="<u4")


class KeyStream:
    """The AES-256-CTR key stream of one key (NIST SP 800-38A, 6.5), from counter block 2.

    It is had as the ciphertext of zeros in Galois/counter mode (SP 800-38D, 7.1) with a nonce of
    twelve zero bytes, which is by definition the same bytes: OpenSSL's code for that mode uses wide
    vector instructions and is up to four times as fast as its plain counter mode, although it
    computes an authentication tag that nobody asks for. The nonce may be zero because a key is used
    for one stream only. A stream ends with an error after 64 GiB.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        self._encryptor = Cipher(algorithms.AES(key), modes.GCM(bytes(12))).encryptor()

    def write(self, zeros: memoryview, buffer: memoryview) -> None:
        """Overwrite the head of `buffer` with the next bytes of the stream, one for each zero."""
        self._encryptor.update_into(zeros, buffer)
