"""Which sites of a run are there, which are away since when, and the roster lines of its rounds."""

from collections.abc import Iterable, Mapping

from wardround_server.attempt_notes import AttemptNotes
from wardround_server.checkpoint import Progress
from wardround_server.rounds import PRESENT, Dropped, RosterLine
from wardround_server.run_folder import ROSTER, RunFolder, read_lines
from wardround_shared.secure_aggregation.roster import Roster

AWAY = "it has not answered the first message"
"""Why a site of the run that has never been asked is in no sum."""


class Register:
    """Keeps the run's attendance in its progress, and writes `roster.jsonl`."""

    def __init__(self, folder: RunFolder, progress: Progress, roster: Roster | None) -> None:
        """The register of a run; without a roster its sites are those that have ever joined."""
        self._folder = folder
        self._progress = progress
        self._roster = roster
        self._notes = AttemptNotes(folder)

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites of the run."""
        return self._progress.sites if self._roster is None else self._roster.sites

    def there(self, sites: Iterable[str]) -> None:
        """These sites are there now."""
        here = tuple(sites)
        self._progress.sites = tuple(sorted({*self._progress.sites, *here}))
        for site in here:
            self._progress.away.pop(site, None)

    def away(self, names: Iterable[str]) -> dict[str, str]:
        """Sites of the run that are not among these, and since what."""
        here = set(names)
        known = dict.fromkeys(self.sites, AWAY) | self._progress.away
        return {site: why for site, why in known.items() if site not in here}

    def attempts(self, number: int) -> int:
        """Attempts of round `number` that have failed."""
        return self._notes.of(number).attempts

    def failed(self, line: RosterLine) -> Mapping[str, str]:
        """Note an attempt that another one follows; the sites that it missed, site -> why."""
        self._notes.add(line)
        return self._missed(line)

    def ended(self, last: RosterLine) -> tuple[RosterLine, Mapping[str, str]]:
        """Write the line of a round that has ended with the attempt `last`.

        Returns:
            The line over all attempts, and the sites that the last one missed, site -> why.

        Raises:
            RunFolderError: it cannot be written.
        """
        missed = self._missed(last)
        line = self._notes.of(last.round).before(last, away=self.away(()))
        self._folder.append_roster(line)
        return line, missed

    def dropped(self) -> tuple[Dropped, ...]:
        """Every drop of the run: outside of its rounds, and then those of its roster lines.

        Raises:
            RunFolderError: the roster lines cannot be read.
        """
        lines = read_lines(self._folder.path / ROSTER)
        of_rounds = (Dropped(**drop) for line in lines for drop in line["dropped"])
        return (*self._progress.dropped, *of_rounds)

    def _missed(self, line: RosterLine) -> Mapping[str, str]:
        """Sites that were asked and did not answer rightly; they count as away now."""
        missed = {drop.site: drop.why for drop in line.dropped if drop.why not in PRESENT}
        for site, why in missed.items():
            self._progress.away[site] = f"away since round {line.round}: {why}"
        return missed
