"""Child process: Flower's SuperLink."""

from hashlib import sha256
from pathlib import Path

from wardround_server.enrolment.home import ServerHome
from wardround_server.enrolment.rosters import node_keys
from wardround_server.flower.superlink import Doors, serve
from wardround_shared.audit_log import AuditLog, Sparing, Told
from wardround_shared.supervision import child_settings, log_as
from wardround_shared.times import utc_now

_MOST_STRANGERS = 20


class Strangers:
    """Notes in the audit log which nodes were refused that nobody has admitted."""

    def __init__(self, home: ServerHome) -> None:
        self._home = home
        self._sparing = Sparing(most=_MOST_STRANGERS)

    def note(self, key: bytes) -> None:
        """Note the attempt of a node with this key (PEM)."""
        digest = sha256(key.strip()).hexdigest()
        # First: to read the roster for each knock would cost more than the knock.
        if not self._sparing.worth(digest):
            return
        admitted = {known.strip() for known in node_keys(self._home, now=utc_now())}
        if key.strip() not in admitted:  # else it was quicker than its registration
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
