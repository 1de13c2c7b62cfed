"""Where the randomness that protects patients comes from.

Noise that someone can predict can be subtracted, so `SystemNoise` cannot be seeded, copied, pickled
or inherited through a fork. `InjectedNoise` is the only other source, for tests.

The normals are drawn in float64 by the Box-Muller transform (1958) and rounded to the tensor's
type. Their low bits therefore depend on the value that is added to them, which the mathematics of
the Gaussian mechanism does not know of (Mironov 2012, "On significance of the least significant
bits for differential privacy"); the gap is closed only where sums are rounded to an integer grid.

Shape letters: n = number of draws.
"""

import math
import os
import threading
from typing import NoReturn, Protocol, SupportsIndex

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

from wardround_shared.errors import PrivacyError

_BUFFER_WORDS = 1 << 15
_KEY_BYTES = 32
# Small enough for the cache, and even. The arithmetic is numpy's because torch would start threads
# for it, which on a machine that is busy takes a hundred times as long as the work.
_CHUNK = 1 << 14
# A float64 in [1, 2) has this exponent; 52 random bits below it and minus one is uniform on [0, 1).
_ONE = np.uint64(0x3FF0_0000_0000_0000)


class NoiseSource(Protocol):
    """Draws that protect patients.

    Guarantee to keep: draws are independent of one another, of every other instance, and of
    anything that an observer of the training can know.
    """

    def normal(
        self, shape: tuple[int, ...], std: float, *, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """Independent draws from N(0, std^2), of the given shape."""
        ...

    def uniform(self, n: int) -> Tensor:
        """Independent draws from [0, 1), float64 [n], on the CPU."""
        ...


class SystemNoise:
    """AES-256 in counter mode under a key from the operating system; the default everywhere.

    Each instance, and each process after a fork, has a key of its own. Safe to share by threads.
    """

    description = "operating system (AES-256-CTR)"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rekey()

    def _rekey(self) -> None:
        # The counter may start at zero because a key is used for one stream only.
        cipher = Cipher(algorithms.AES(os.urandom(_KEY_BYTES)), modes.CTR(bytes(16)))
        self._stream = cipher.encryptor()
        self._process = os.getpid()
        self._words = np.empty(0, dtype=np.uint64)

    def _take(self, n: int) -> NDArray[np.uint64]:
        """The next n words of the key stream, uint64 [n]; no word is ever given twice."""
        with self._lock:
            if self._process != os.getpid():
                self._rekey()  # parent and child would draw the same noise otherwise
            if n > len(self._words):
                fresh = self._stream.update(bytes(8 * (n + _BUFFER_WORDS)))
                self._words = np.frombuffer(fresh, dtype=np.uint64)
            taken, self._words = self._words[:n], self._words[n:]
            return taken

    def normal(
        self, shape: tuple[int, ...], std: float, *, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """See `NoiseSource.normal`."""
        n = math.prod(shape)
        draws = np.empty(n + n % 2)
        for start in range(0, n, _CHUNK):
            self._fill(draws[start : start + _CHUNK], std)
        return torch.from_numpy(draws[:n]).reshape(shape).to(device=device, dtype=dtype)

    def _fill(self, normals: NDArray[np.float64], std: float) -> None:
        """Overwrite an even number of values with draws from N(0, std^2)."""
        pairs = len(normals) // 2
        # Not 0 but 1 may be among these, so that the logarithm is finite.
        radius = std * np.sqrt(-2.0 * np.log(1.0 - self._uniform(pairs)))
        angle = (2.0 * math.pi) * self._uniform(pairs)
        np.multiply(radius, np.cos(angle), out=normals[:pairs])
        np.multiply(radius, np.sin(angle), out=normals[pairs:])

    def uniform(self, n: int) -> Tensor:
        """See `NoiseSource.uniform`."""
        return torch.from_numpy(self._uniform(n))

    def _uniform(self, n: int) -> NDArray[np.float64]:
        bits = (self._take(n) >> np.uint64(12)) | _ONE
        return bits.view(np.float64) - 1.0

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise PrivacyError(
            "A noise source cannot be copied or sent to another process, both would draw the "
            "same noise; make a new SystemNoise there."
        )


class InjectedNoise:
    """Seeded noise FOR TESTS ONLY: whoever knows the seed can subtract it, nobody is protected.

    Two sources with the same seed draw the same, and a pickled one goes on where it stood.
    """

    def __init__(self, seed: int) -> None:
        self.description = f"injected for a test (seed {seed}), protects nobody"
        self._generator = np.random.Generator(np.random.Philox(seed))

    def normal(
        self, shape: tuple[int, ...], std: float, *, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """See `NoiseSource.normal`."""
        draws = self._generator.standard_normal(math.prod(shape)) * std
        return torch.from_numpy(draws).reshape(shape).to(device=device, dtype=dtype)

    def uniform(self, n: int) -> Tensor:
        """See `NoiseSource.uniform`."""
        return torch.from_numpy(self._generator.random(n))
