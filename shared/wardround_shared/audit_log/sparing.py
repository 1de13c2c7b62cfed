"""Lines that repeat themselves: whoever causes them again and again must not fill the disk."""

import time
from collections.abc import Callable, Hashable

HOUR = 3600.0


class Sparing:
    """Which lines are worth writing: of one matter so many an hour, and of so many matters."""

    def __init__(
        self, *, often: int = 1, most: int = 200, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with none.

        Args:
            often: lines of one matter within an hour.
            most: different matters within an hour; further ones have none.
            clock: in seconds.
        """
        self._often = often
        self._most = most
        self._clock = clock
        self._written: dict[Hashable, list[float]] = {}

    def worth(self, matter: Hashable) -> bool:
        """Whether to write a line about this now; it is counted as written."""
        now = self._clock()
        recent = {
            known: [at for at in times if now - at < HOUR] for known, times in self._written.items()
        }
        self._written = {known: times for known, times in recent.items() if times}
        times = self._written.get(matter, [])
        if len(times) >= self._often or (not times and len(self._written) >= self._most):
            return False
        self._written[matter] = [*times, now]
        return True
