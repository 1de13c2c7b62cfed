"""What a person sees of a command that trains many times: which step it is, how far it has got."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wardround_server.observer import Metrics, Observer
from wardround_server.rounds import RosterLine
from wardround_shared.terminal import say

# Seconds between two lines about one step.
_PATIENCE = 15.0


class Parts(Observer):
    """Of one step, such as the rounds of a run, which it can watch."""

    def __init__(self, done: Callable[[int], None]) -> None:
        self.done = done

    def closed(self, line: RosterLine, metrics_before: Metrics, seconds: float) -> None:
        """See `Observer`."""
        self.done(line.round)


class Watcher(Protocol):
    """Is told which of how many steps begins."""

    def planned(self, steps: int) -> None:
        """So many steps will follow."""
        ...

    def begin(self, what: str, parts: int) -> "Parts":
        """A step begins, of so many parts."""
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

    def begin(self, what: str, parts: int) -> Parts:
        """See `Watcher`."""
        self._begun += 1
        say(f"{self._begun} of {self._steps}: {what}", self._stream)
        said = self._clock()

        def done(number: int) -> None:
            nonlocal said
            # The end of the last part is told by the line of the next step.
            if number < parts and self._clock() - said >= _PATIENCE:
                said = self._clock()
                say(f"  {number} of {parts}", self._stream)

        return Parts(done)


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

    def begin(self, what: str, parts: int) -> Parts:
        """See `Watcher`."""
        self._progress.update(self._all, completed=self._begun)
        self._begun += 1
        self._progress.reset(self._one, total=parts, description=what)
        return Parts(lambda number: self._progress.update(self._one, completed=number))


@contextmanager
def watching(stream: TextIO) -> Iterator[Watcher]:
    """Bars on a terminal, lines elsewhere."""
    if stream.isatty():
        with Bars(Console(file=stream)) as bars:
            yield bars
    else:
        yield Lines(stream)
