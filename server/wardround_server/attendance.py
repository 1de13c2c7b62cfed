"""Who is asked for a sum: all sites, or those that are there now."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


class Attendance(Protocol):
    """Which sites of a run are asked this time.

    A site that did not answer is not asked again until it has greeted again, so that it delays a
    run by one deadline and no more.
    """

    @property
    def waits(self) -> bool:
        """Whether a sum for which too few sites answered is asked for again, without limit.

        True in hospitals; a simulation gives the round up, since nobody will come back.
        """

    def invited(self, needed: int) -> Mapping[int, str]:
        """Node id -> site, who to ask now; in the order of the names.

        One that `waits` returns when at least `needed` sites are there. A site may have another
        node id than before.
        """

    def missed(self, sites: Mapping[str, str]) -> None:
        """These sites (site -> why) were asked, and are not in the sum."""


@dataclass(frozen=True)
class Everyone:
    """All sites that answered the first message are asked each time, whatever happens."""

    names: Mapping[int, str]
    waits: bool = field(default=False, init=False)

    def invited(self, needed: int) -> Mapping[int, str]:
        """See `Attendance.invited`."""
        return self.names

    def missed(self, sites: Mapping[str, str]) -> None:
        """See `Attendance.missed`."""
