"""What a server keeps of its secure sums, so that it can be killed at any time.

Two things: the number of the next secure round, since sites never take a number twice, and the sum
that is under way from the moment on at which a site may be asked to unmask it.
"""

from collections.abc import Iterable
from typing import Protocol

Buffer = bytes | bytearray | memoryview


class SumStore(Protocol):
    """Durable memory of one run's secure sums. Whatever is written is on disk on return."""

    def save(self, parts: Iterable[Buffer]) -> None:
        """Put the sum under way on disk, in place of another one: wholly, or not at all.

        Args:
            parts: to be written one after the other; the last one is as large as the model, and
                need not be copied.
        """

    def load(self) -> bytes | bytearray | None:
        """What was saved last and not cleared; a bytearray is worked on where it lies."""

    def clear(self) -> None:
        """Forget the sum under way."""

    @property
    def next_round(self) -> int:
        """What was kept last; 1 before the first."""

    def keep_next_round(self, number: int) -> None:
        """Keep the number of the next secure round; called before a request with keys goes out."""
