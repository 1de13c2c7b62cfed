"""Asking for one sum until there is one: in a simulation once, in hospitals without limit."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from wardround_server.attendance import Attendance
from wardround_server.observer import Observer
from wardround_shared.errors import LostRoundError, NotEnoughSitesError, StoppedError

LONGEST_PAUSE = 60.0
"""Seconds between two attempts; the first pauses are shorter."""

T = TypeVar("T")
Question = Callable[[Mapping[int, str]], T]
"""Asks these sites (node id -> site)."""
Failed = Callable[[NotEnoughSitesError, Mapping[int, str]], Mapping[str, str]]
"""Notes a failed attempt with these sites; says which are missing, site -> why."""


def require_going_on(should_stop: Callable[[], bool]) -> None:
    """End here if that is asked for.

    Raises:
        StoppedError: it is.
    """
    if should_stop():
        raise StoppedError("The run was told to stop; resume it to go on from where it is.")


class Attempts:
    """Asks the sites that attend, and asks again where sites are waited for."""

    def __init__(
        self,
        *,
        attendance: Attendance,
        needed: int,
        observer: Observer,
        pause: Callable[[float], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Ask with at least `needed` sites, and pause (seconds) between attempts."""
        self.attendance = attendance
        self._needed = needed
        self._observer = observer
        self._pause = pause
        self._should_stop = should_stop

    def until_there(
        self, number: int, question: Question[T], failed: Failed, *, earlier: int = 0
    ) -> T:
        """The answer to a question of round `number`.

        Args:
            number: of the round.
            question: asks it.
            failed: is told of each attempt that is followed by another one.
            earlier: attempts before this process began.

        Raises:
            LostRoundError: there will be no answer.
            NotEnoughSitesError: too few sites, and nobody is waited for.
            StoppedError: the run is to stop.
        """
        attempt = earlier
        while True:
            require_going_on(self._should_stop)
            attempt += 1
            invited = self.attendance.invited(self._needed)
            if not self.attendance.waits:
                return question(invited)
            self._observer.opened(number, attempt, tuple(invited.values()))
            try:
                return question(invited)
            except LostRoundError:
                raise
            except NotEnoughSitesError as error:
                missing = failed(error, invited)
                self.attendance.missed(missing)
                self._observer.waiting(number, missing, str(error))
                require_going_on(self._should_stop)
                self._pause(min(2.0 ** (attempt - earlier - 1), LONGEST_PAUSE))
