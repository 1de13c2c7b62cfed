"""What a person sees while a study runs: bars on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Sequence
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wardround_server.observer import Metrics, Observer
from wardround_server.rounds import Dropped, RosterLine
from wardround_shared.terminal import say


class PlainLines(Observer):
    """One line a round, for pipes and logs.

    Attributes:
        begun: the sites have been called together, so there is a run folder.
    """

    def __init__(self, rounds: int, stream: TextIO = sys.stderr) -> None:
        self.begun = False
        self._rounds = rounds
        self._stream = stream

    def joined(self, sites: Sequence[str], absent: Sequence[Dropped]) -> None:
        """See `Observer`."""
        self.begun = True
        self._say(f"{len(sites)} sites: {_listed(sites)}")
        for drop in absent:
            self._say(f"left out {drop.site}: {drop.why}")

    def answered(self, round_number: int, site: str, failure: str) -> None:
        """See `Observer`."""
        if failure:
            self._say(f"round {round_number}: without {site}: {failure}")

    def closed(self, line: RosterLine, metrics_before: Metrics, seconds: float) -> None:
        """See `Observer`."""
        self._say(round_text(line, metrics_before, seconds, self._rounds))

    def _say(self, text: str) -> None:
        say(text, self._stream)


class Bars(Observer):
    """A bar for the rounds and one for the sites of the current round.

    Attributes:
        begun: as in `PlainLines`.
    """

    def __init__(self, rounds: int, console: Console) -> None:
        self.begun = False
        self._total = rounds
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            # Sites choose their names, brackets and all.
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._rounds = self._progress.add_task("rounds", total=rounds, note="")
        self._sites = self._progress.add_task("sites", total=None, note="")
        self._round = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def joined(self, sites: Sequence[str], absent: Sequence[Dropped]) -> None:
        """See `Observer`."""
        self.begun = True
        self._progress.update(self._sites, total=len(sites))
        for drop in absent:
            self._progress.console.print(f"left out {drop.site}: {drop.why}", markup=False)

    def answered(self, round_number: int, site: str, failure: str) -> None:
        """See `Observer`."""
        if round_number != self._round:
            self._round = round_number
            self._progress.reset(self._sites)
        self._progress.update(self._sites, advance=1, note=site)
        if failure:
            self._progress.console.print(
                f"round {round_number}: without {site}: {failure}", markup=False
            )

    def closed(self, line: RosterLine, metrics_before: Metrics, seconds: float) -> None:
        """See `Observer`."""
        note = round_text(line, metrics_before, seconds, self._total)
        self._progress.update(self._rounds, completed=line.round, note=note.partition(": ")[2])


_FIGURES = {
    "loss": "loss",
    "auroc": "AUROC",
    "c_index": "C-index",
    "dice": "Dice",
    "froc": "FROC",
    "accuracy": "accuracy",
}
"""Key -> name of what stands in the line of a round."""


def round_text(line: RosterLine, metrics_before: Metrics, seconds: float, rounds: int) -> str:
    """A round in one line; the metrics are those of the model that it started from."""
    if not line.aggregated:
        return f"round {line.round} of {rounds}: given up, the model stays ({seconds:.2f} s)"
    figures = ", ".join(
        f"{name} {metrics_before[key]:.3f}"
        for key, name in _FIGURES.items()
        if metrics_before.get(key) is not None
    )
    taken = f"{len(line.aggregated)} of {len(line.invited)} sites"
    return f"round {line.round} of {rounds}: {taken}, before it {figures} ({seconds:.2f} s)"


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
