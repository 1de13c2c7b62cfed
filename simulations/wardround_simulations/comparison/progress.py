"""What a person sees while ways are trained, one after the other."""

import time
from collections.abc import Callable
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wardround_server.observer import Metrics, Observer
from wardround_server.rounds import RosterLine
from wardround_shared.terminal import say

# Seconds between two lines about a way that is being trained.
_PATIENCE = 15.0


class Watcher(Protocol):
    """Is told which of how many steps begins, and how far it has got."""

    def planned(self, steps: int) -> None:
        """So many steps will follow."""
        ...

    def begin(self, what: str, parts: int) -> Observer:
        """A step begins, of so many rounds; its observer is told of each."""
        ...


class Lines:
    """A line for each step, and one now and then while it takes; for pipes and logs."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._steps = self._begun = 0

    def planned(self, steps: int) -> None:
        """See `Watcher`."""
        self._steps = steps

    def begin(self, what: str, parts: int) -> Observer:
        """See `Watcher`."""
        self._begun += 1
        say(f"{self._begun} of {self._steps}: {what}", self._stream)
        said = self._clock()

        def closed(number: int) -> None:
            nonlocal said
            if self._clock() - said >= _PATIENCE:
                said = self._clock()
                say(f"  round {number} of {parts}", self._stream)

        return _Rounds(closed)


class Bars:
    """A bar for the steps and one for the rounds of the present step; for terminals."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            # Sites choose their names, brackets and all.
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._all = self._progress.add_task("steps", total=None)
        self._one = self._progress.add_task("", total=None)
        self._begun = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def planned(self, steps: int) -> None:
        """See `Watcher`."""
        self._progress.update(self._all, total=steps)

    def begin(self, what: str, parts: int) -> Observer:
        """See `Watcher`."""
        self._progress.update(self._all, completed=self._begun)
        self._begun += 1
        self._progress.reset(self._one, total=parts, description=what)
        return _Rounds(lambda number: self._progress.update(self._one, completed=number))


class _Rounds(Observer):
    """Passes on the number of each round that is over."""

    def __init__(self, closed: Callable[[int], None]) -> None:
        self._closed = closed

    def closed(self, line: RosterLine, metrics_before: Metrics, seconds: float) -> None:
        """See `Observer`."""
        self._closed(line.round)
