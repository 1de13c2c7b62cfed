"""Who of a run's sites is there: `Attendance` of hospitals, which go and come back."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from wardround_server.daemon.delivery import Delivery
from wardround_server.greeting import Joined

_FIRST_PAUSE, _LONGEST_PAUSE = 15.0, 300.0
_LOOK_SECONDS = 1.0

BRIEF_SECONDS, PATIENT_SECONDS = 8.0, 60.0
"""How long a greeting is waited for: between two rounds, and where the run waits for sites anyway.

A site that needs longer, since it reads its data first, has them read when it is greeted again.
"""

Greet = Callable[[tuple[int, ...], float], Joined]
"""Greets these nodes again, and waits so many seconds for them."""


class _Tried(NamedTuple):
    """When a node was last greeted: over which connection, and when it is its turn again."""

    connected: str
    pause: float
    next: float


class Presence:
    """Sites that are asked, and nodes that wait outside until they have greeted again.

    A node outside is greeted when it has connected anew, and otherwise after pauses that grow: one
    that is connected and never answers must not cost a run anything.
    """

    waits = True

    def __init__(
        self,
        joined: Joined,
        *,
        delivery: Delivery,
        greet: Greet,
        told: Callable[[Mapping[str, str], Mapping[str, str]], None],
        waiting: Callable[[Mapping[str, str]], None],
        check: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin with the sites that have greeted.

        Args:
            joined: the first greetings.
            delivery: knows which nodes are connected.
            greet: greets nodes again.
            told: is told who is missing (site -> why) and who has come back (site -> "").
            waiting: is told for whom the run waits, before it does.
            check: called while waiting; raises to break off.
            clock: in seconds.
            sleep: waits so many seconds.
        """
        self._inside = dict(joined.names)
        self._delivery = delivery
        self._greet = greet
        self._told = told
        self._waiting = waiting
        self._outside: dict[str, str] = {}
        self._check = check
        self._clock = clock
        self._sleep = sleep
        self._tried: dict[int, _Tried] = {}

    def invited(self, needed: int) -> Mapping[int, str]:
        """See `Attendance.invited`."""
        self._look_outside(BRIEF_SECONDS)
        if len(self._inside) < needed:
            self._waiting(dict(self._outside))
        while len(self._inside) < needed:
            self._check()
            self._sleep(_LOOK_SECONDS)
            self._look_outside(PATIENT_SECONDS)
        return dict(sorted(self._inside.items(), key=lambda item: item[1]))

    def missed(self, sites: Mapping[str, str]) -> None:
        """See `Attendance.missed`."""
        left = {site: why for site, why in sites.items() if site in self._inside.values()}
        # To greet a node that has just been silent would cost the run the same time again.
        self._put_off(node for node, site in self._inside.items() if site in left)
        self._inside = {n: site for n, site in self._inside.items() if site not in left}
        if left:
            self._outside |= left
            self._told(left, {})

    def _look_outside(self, patience: float) -> None:
        """Greet the nodes outside whose turn it is, and wait so many seconds for them."""
        due = tuple(node for node in self._delivery.online() if self._due(node))
        if not due:
            return
        joined = self._greet(due, patience)
        self._put_off(due)
        for node, site in joined.names.items():
            self._inside = {n: known for n, known in self._inside.items() if known != site}
            self._inside[node] = site
            self._tried.pop(node, None)
            self._outside.pop(site, None)
        self._told({}, dict.fromkeys(joined.names.values(), ""))

    def _due(self, node: int) -> bool:
        """Whether to greet a node now."""
        if node in self._inside:
            return False
        tried = self._tried.get(node)
        if tried is None or tried.connected != self._delivery.connected(node):
            return True
        return self._clock() >= tried.next

    def _put_off(self, nodes: Iterable[int]) -> None:
        """Greet these nodes later, and later each time; the pause begins now."""
        for node in nodes:
            tried, connected, pause = self._tried.get(node), self._delivery.connected(node), 0.0
            if tried is not None and tried.connected == connected:
                pause = tried.pause
            pause = min(2 * pause, _LONGEST_PAUSE) or _FIRST_PAUSE
            self._tried[node] = _Tried(connected, pause, self._clock() + pause)
