"""Calling the sites of a run together, when it begins and when a server goes on with it."""

from collections.abc import Callable

from wardround_server.attempts import require_going_on
from wardround_server.exchange import Exchange
from wardround_server.greeting import Joined, greet
from wardround_server.observer import Observer
from wardround_server.register import Register
from wardround_shared.errors import NotEnoughSitesError
from wardround_shared.messages import Header, Shapes

CONNECTING_SECONDS = 10.0
"""How long nodes are waited for before those who watch are told that the run waits."""


def assemble(
    exchange: Exchange,
    header: Header,
    *,
    register: Register,
    observer: Observer,
    minimum: int,
    deadline: float,
    shapes: Shapes,
    closed: bool,
    finished: int,
    pause: Callable[[float], None] | None,
    should_stop: Callable[[], bool],
) -> Joined:
    """Greet the sites until at least `minimum` have answered rightly.

    Args:
        exchange: over which they are asked.
        header: of round 0.
        register: of the run.
        observer: is told who has joined, and whom the run waits for.
        minimum: of sites.
        deadline: seconds for the answers.
        shapes: of the run's examples, once they are known.
        closed: whether only the register's sites may join.
        finished: rounds that are over.
        pause: takes seconds between two greetings; none: they are greeted once.
        should_stop: looked at before each.

    Raises:
        NotEnoughSitesError: there are fewer, and nobody is waited for.
        StoppedError: the run is to stop.
    """
    while True:
        require_going_on(should_stop)
        joined = greet(
            exchange,
            header,
            minimum_sites=minimum,
            deadline=deadline,
            connecting=CONNECTING_SECONDS if pause else None,
            members=register.sites if closed else None,
            shapes=shapes,
        )
        names = tuple(joined.names.values())
        observer.joined(names, joined.absent)
        if len(names) >= minimum:
            return joined
        reasons = {drop.site: drop.why for drop in joined.absent}
        why = "; ".join(f"{site}: {reason}" for site, reason in reasons.items())
        text = (
            f"{len(names)} sites answered, the study needs {minimum} "
            f"(aggregation.minimum-sites). {why}".rstrip()
        )
        if pause is None:
            raise NotEnoughSitesError(text)
        observer.waiting(finished, register.away(names) | reasons, text)
        pause(CONNECTING_SECONDS)
