"""One round as a state machine without Flower, clock, disk or network.

::

    open --add/drop--> open --close--> closed (sum)      at least minimum_sites updates
                            --close--> NotEnoughSitesError: nothing is aggregated

Every invited site ends in exactly one of aggregated and dropped, and the roster line says which.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from wardround_server.aggregation import RunningSum, Sum
from wardround_shared.errors import NotEnoughSitesError, ProtocolError
from wardround_shared.messages import Update

GIVEN_UP = "the round was given up"
"""Why a site that answered is in no sum: there were too few others."""

KEYS_MISSED = "missed the exchange of keys; takes part in the next round"
"""Why a site that answered is in no sum: it was not there when keys for this one were exchanged."""

PRESENT = frozenset({GIVEN_UP, KEYS_MISSED})
"""Why sites are in no sum that are there, and are to be asked the next time as well."""


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A site that was invited and is not in the sum, and why."""

    site: str
    why: str


@dataclass(frozen=True, kw_only=True)
class RosterLine:
    """Who took part in a round: invited = aggregated + dropped.

    Attributes:
        trained: in the attempt that ended the round; with secure aggregation only those are known
            whose update is in the sum.
        absent: sites of the run that were away and so were not invited, and since what.
        attempts: how often the sites were asked; those of all attempts count as invited.
    """

    round: int
    invited: tuple[str, ...]
    trained: tuple[str, ...]
    aggregated: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    absent: tuple[Dropped, ...] = ()
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class GivenUp:
    """A round without a sum: the model stayed as it was, and the next round started."""

    round: int
    why: str


@dataclass(frozen=True, kw_only=True)
class FailedAttempts:
    """Attempts of one round that brought no sum and were followed by another one.

    Attributes:
        dropped: the sites that were asked then, and why each was in no sum at the last of these.
    """

    round: int
    attempts: int = 0
    dropped: tuple[Dropped, ...] = ()

    def and_also(self, line: RosterLine) -> "FailedAttempts":
        """With one more attempt, whose line this is."""
        reasons = {drop.site: drop for drop in (*self.dropped, *line.dropped)}
        return FailedAttempts(
            round=self.round, attempts=self.attempts + 1, dropped=tuple(reasons.values())
        )

    def before(self, line: RosterLine, *, away: Mapping[str, str]) -> RosterLine:
        """The line of a round that ended with the attempt `line`, all attempts taken together.

        Args:
            line: of the last attempt.
            away: every site of the run that may be missing, and since what.
        """
        earlier = tuple(drop for drop in self.dropped if drop.site not in line.invited)
        invited = {*line.invited, *(drop.site for drop in earlier)}
        return dataclasses.replace(
            line,
            invited=(*line.invited, *(drop.site for drop in earlier)),
            dropped=(*line.dropped, *earlier),
            absent=tuple(
                Dropped(site=site, why=why)
                for site, why in sorted(away.items())
                if site not in invited
            ),
            attempts=self.attempts + 1,
        )


class Round:
    """Round `number` with the `invited` sites; closes with at least `minimum_sites` updates."""

    def __init__(
        self, *, number: int, invited: tuple[str, ...], minimum_sites: int, running_sum: RunningSum
    ) -> None:
        self.number = number
        self._invited = invited
        self._minimum_sites = minimum_sites
        self._sum = running_sum
        self._trained: set[str] = set()
        self._aggregated: set[str] = set()
        self._dropped: dict[str, str] = {}

    @property
    def missing(self) -> tuple[str, ...]:
        """Invited sites that have neither answered nor been dropped."""
        done = self._trained | self._dropped.keys()
        return tuple(site for site in self._invited if site not in done)

    def add(self, site: str, update: Update) -> str:
        """Take a site's update into the sum; one that does not fit drops the site.

        Returns:
            Why the site is dropped, or nothing.

        Raises:
            ProtocolError: the site was not invited or has answered already.
        """
        self._expect(site)
        self._trained.add(site)
        try:
            self._sum.add(update)
        except ProtocolError as error:
            self._dropped[site] = str(error)
            return str(error)
        self._aggregated.add(site)
        return ""

    def drop(self, site: str, why: str) -> None:
        """Go on without a site.

        Raises:
            ProtocolError: the site was not invited or has answered already.
        """
        self._expect(site)
        self._dropped[site] = why

    def close(self) -> Sum:
        """The sum over all sites that answered.

        Raises:
            NotEnoughSitesError: fewer than the minimum; the round is given up.
        """
        for site in self.missing:
            self._dropped[site] = "no answer before the deadline"
        if len(self._aggregated) < self._minimum_sites:
            answered = len(self._aggregated)
            why = "; ".join(f"{site}: {reason}" for site, reason in sorted(self._dropped.items()))
            self._dropped |= dict.fromkeys(self._aggregated, GIVEN_UP)
            self._aggregated.clear()
            raise NotEnoughSitesError(
                f"Round {self.number}: {answered} of {len(self._invited)} sites could "
                f"be aggregated, the study needs {self._minimum_sites} "
                f"(aggregation.minimum-sites). {why}".rstrip()
            )
        return self._sum.total()

    def roster_line(self) -> RosterLine:
        """Who took part, in the order of invitation."""

        def ordered(sites: set[str]) -> tuple[str, ...]:
            return tuple(site for site in self._invited if site in sites)

        return RosterLine(
            round=self.number,
            invited=self._invited,
            trained=ordered(self._trained),
            aggregated=ordered(self._aggregated),
            dropped=tuple(
                Dropped(site=site, why=self._dropped[site])
                for site in self._invited
                if site in self._dropped
            ),
        )

    def _expect(self, site: str) -> None:
        if site not in self._invited:
            raise ProtocolError(f"Site {site} answers a round that it was not invited to.")
        if site in self._trained or site in self._dropped:
            raise ProtocolError(f"Site {site} answers round {self.number} twice.")
