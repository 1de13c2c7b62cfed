"""`wardround-site start`: keeps the SuperNode and the worker up.

If one of them ends, both are started again: what one held for the other is lost, and the server
sends it again. Everything that has to outlive them is in the site's home.
"""

import logging
import os
import secrets
import socket
from collections.abc import Callable

from wardround_client.daemon.endings import Endings
from wardround_client.daemon.pulse import Pulse
from wardround_client.enrolment.home import SiteHome
from wardround_client.enrolment.joining import membership
from wardround_client.ledger import Ledger
from wardround_client.policy import load_policy
from wardround_shared.audit_log import AuditLog
from wardround_shared.flower import QUIET, local_without_proxy
from wardround_shared.supervision import RENEW, Backoff, Child, Ending, Program, alone

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_SUPERNODE = "wardround_client.daemon.supernode"
_WORKER = "wardround_client.daemon.worker"


class Service:
    """The daemon of a site."""

    def __init__(self, home: SiteHome) -> None:
        """Look at everything once, so that what is wrong is said before anything is started.

        Raises:
            WardroundError: the site has not joined, or its policy or ledger is not in order.
        """
        self._home = home
        member = membership(home)
        self._name, self.server = member.site, member.server
        load_policy(home.policy)
        Ledger.open(home.folder, site=self._name)
        self._audit = AuditLog(home.audit_log)
        self._endings = Endings(self._audit)
        self._pause = Backoff()
        self._pair: tuple[Child, ...] = ()
        self._listening: socket.socket | None = None
        self._pulse = Pulse(home.folder)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Without its audit log nothing goes on: what cannot be written ends the daemon.

        Raises:
            RunError: another daemon serves this home.
            AuditError: the audit log cannot be written; both processes have ended.
        """
        os.umask(0o077)
        os.environ.update(local_without_proxy(os.environ))
        ending = Ending()
        with alone(self._home.folder):
            self._audit.append("started")
            try:
                while not ending.wait(_LOOK_SECONDS):
                    self.look()
                    self._pulse.beat()
            finally:
                self._close()
                self._audit.append("stopped")

    def look(self) -> None:
        """One look at the two processes."""
        ended = [(child, code) for child in self._pair if (code := child.ended()) is not None]
        if ended:
            # One may have ended because the other has asked to be started anew.
            self._ended(*next((one for one in ended if one[1] == RENEW), ended[0]))
            return
        if not self._pair and self._pause.due:
            self._pause.started()
            self._start()

    def _ended(self, child: Child, code: int) -> None:
        self._close()
        if code == RENEW:
            _log.info("keys have changed, or nothing was asked for long; starting anew")
            return
        pause = self._pause.ended()
        refusal = self._endings.note(child.name, code)
        why = "" if refusal is None else f": {refusal.sentence}"
        _log.error("the %s has ended (%d); started again in %.1f s%s", child.name, code, pause, why)

    def _start(self) -> None:
        settings = membership(self._home)
        ours, theirs = socket.socketpair()
        token = secrets.token_urlsafe(32)
        # Ours until both are ended, so that nobody else can open the port before the SuperNode.
        listening = self._listening = socket.create_server(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        with ours, theirs:
            node = Program(
                name="supernode",
                module=_SUPERNODE,
                settings={
                    "server": settings.server,
                    "ca": str(self._home.authorities),
                    "node_key": str(self._home.keys.node),
                    "node_id": str(self._home.folder / "node.id"),
                    "listening": listening.fileno(),
                    "token": token,
                    "worker": ours.fileno(),
                },
                environment=QUIET,
                descriptors=(ours.fileno(), listening.fileno()),
            )
            worker = Program(
                name="worker",
                module=_WORKER,
                settings={
                    "home": str(self._home.folder),
                    "port": port,
                    "token": token,
                    "wake": theirs.fileno(),
                },
                environment=QUIET,
                descriptors=(theirs.fileno(),),
            )
            self._pair = (Child(node), Child(worker))

    def _close(self) -> None:
        for child in self._pair:
            child.ask_to_end()
        for child in self._pair:
            child.wait_for_end()
        self._pair = ()
        if self._listening is not None:
            self._listening.close()
            self._listening = None


def serve(home: SiteHome, *, ready: Callable[[str], None] = lambda _server: None) -> None:
    """Run the daemon of a home.

    Args:
        home: of a site that has joined.
        ready: is told the server's address, once everything here is in order.

    Raises:
        WardroundError: as `Service` and its `run`.
    """
    service = Service(home)
    ready(service.server)
    service.run()
