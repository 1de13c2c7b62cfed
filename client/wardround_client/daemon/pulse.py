"""The pulse of a site's daemon: by it a container's health check sees that the daemon is not hung.

A site opens no port at which anybody could ask. So the daemon now and then writes the time since
boot into a file of its home, and whoever asks looks how long ago that was. Whether the server can
be reached is not in it: to start a site anew would not help.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FILE = "pulse"
"""Name of the file in the site's home."""

LONGEST_SECONDS = 120.0
"""Between two beats; ending hung children and waiting for another process take up to half of it."""

_OFTEN = 10.0
_WIDTH = 20


class Pulse:
    """Beats for as long as somebody calls `beat`."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = home / FILE
        self._clock = clock
        self._written = -_OFTEN

    def beat(self) -> None:
        """Call this in the daemon's loop, as often as you like; it writes each ten seconds."""
        now = self._clock()
        if now - self._written < _OFTEN:
            return
        self._written = now
        # In place and always as long: a full disk does not stop it, and half of it is never read.
        # Rounded down: a beat is not in the future.
        with suppress(OSError):
            opened = os.open(self._file, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(opened, f"{int(now):{_WIDTH}d}".encode(), 0)
            finally:
                os.close(opened)


def alive(home: Path, clock: Callable[[], float] = time.monotonic) -> bool:
    """Whether the daemon of this home has beaten lately, since the machine was started."""
    try:
        beaten = float((home / FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return False
    return 0 <= clock() - beaten <= LONGEST_SECONDS


def main() -> None:
    """Look at the daemon of this machine: the health check of a container.

    Exit code 0 if it is alive, otherwise 1 and a sentence.
    """
    home = os.environ.get("WARDROUND_SITE_HOME")
    if home is None:
        sys.exit("WARDROUND_SITE_HOME is not set; it names the site's home.")
    if not alive(Path(home)):
        sys.exit(f"{home}: no daemon is at work here.")


if __name__ == "__main__":
    main()
