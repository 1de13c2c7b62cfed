"""Child process: Flower's SuperLink."""

import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from wardround_server.enrolment.home import ServerHome
from wardround_server.enrolment.rosters import node_keys
from wardround_server.flower.superlink import Doors, serve
from wardround_shared.audit_log import AuditLog, Told
from wardround_shared.supervision import child_settings, log_as
from wardround_shared.times import utc_now

_AGAIN_SECONDS = 3600.0
_MOST_STRANGERS = 20


class Strangers:
    """Notes in the audit log which nodes were refused that nobody has admitted.

    Each once an hour, and so many of them: whoever knocks must not fill the disk.
    """

    def __init__(self, home: ServerHome, clock: Callable[[], float] = time.monotonic) -> None:
        self._home = home
        self._clock = clock
        self._noted: dict[str, float] = {}

    def note(self, key: bytes) -> None:
        """Note the attempt of a node with this key (PEM)."""
        now, digest = self._clock(), sha256(key.strip()).hexdigest()
        self._noted = {k: at for k, at in self._noted.items() if now - at < _AGAIN_SECONDS}
        if digest in self._noted or len(self._noted) >= _MOST_STRANGERS:
            return
        admitted = {known.strip() for known in node_keys(self._home, now=utc_now())}
        if key.strip() in admitted:
            return  # it was quicker than its registration
        self._noted[digest] = now
        why = Told("A node wanted to connect whose key is not in the roster.")
        AuditLog(self._home.audit_log).append("refused", digest=digest, reason=why)


def main() -> None:
    """Serve as the first line of standard input says."""
    settings = child_settings()
    log_as("superlink")
    serve(
        Doors(
            host=settings["host"],
            port=settings["port"],
            public=tuple(settings["public"]),
            local=settings["local"],
            token=settings["token"],
            certificate=Path(settings["certificate"]),
            key=Path(settings["key"]),
            ca=Path(settings["ca"]),
            database=Path(settings["database"]),
        ),
        stranger=Strangers(ServerHome(folder=Path(settings["home"]))).note,
    )


if __name__ == "__main__":
    main()
