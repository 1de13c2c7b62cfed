"""Child process: the worker of a site, which holds torch and the cohort and answers requests.

Before its first request it holds neither: a site that waits for a study takes little memory. Long
after its last one it ends, and is started anew.
"""

import logging
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from flwr.app import RecordDict

from wardround_client.daemon.outbox import Outbox
from wardround_client.daemon.tickets import Refusal, Tickets
from wardround_client.enrolment.home import SiteHome
from wardround_client.flower.tasks import Task, Tasks
from wardround_shared.supervision import RENEW, child_settings, log_as

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 3.0
_PAUSE_SECONDS = 0.2
_TIRED_SECONDS = 900.0
"""After so long without a request what was loaded for them is given back."""


def main() -> None:
    """Answer as the first line of standard input says, until SIGTERM."""
    settings = child_settings()
    log_as("worker")
    Worker(settings).run()


class Worker:
    """Takes requests from the SuperNode, and hands answers back."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._home = SiteHome.open(Path(settings["home"]))
        self._wake: int = settings["wake"]
        self._answerer: Callable[[str, RecordDict], RecordDict] | None = None
        self._last = time.monotonic()
        self._changed = False
        self._tickets = Tickets(
            self._answer,
            Outbox(self._home.folder / "outbox"),
            site=self._home.settings().name,
        )
        self._tasks = Tasks(port=settings["port"], token=settings["token"])

    def run(self) -> None:
        """Answer until the SuperNode is gone, or this process shall be renewed."""
        while not (self._changed or self._tired):
            if not self._take_one() and not self._woken():
                return
        self._tickets.close()
        os._exit(RENEW)

    @property
    def _tired(self) -> bool:
        loaded = self._answerer is not None and not self._tickets.busy
        return loaded and time.monotonic() - self._last > _TIRED_SECONDS

    def _answer(self, kind: str, content: RecordDict) -> RecordDict:
        """Form an answer; what that needs is loaded with the first."""
        if self._answerer is None:
            from wardround_client.daemon.participation import answerer  # noqa: PLC0415 - torch

            self._tickets.progress("loading", 0, 0)
            self._answerer = answerer(
                self._home, progress=self._tickets.progress, reconnect=self._reconnect
            )
        return self._answerer(kind, content)

    def _woken(self) -> bool:
        """Wait for a byte, which says that there is something to take; False: nobody is there."""
        if not select.select([self._wake], [], [], _LOOK_SECONDS)[0]:
            return True
        return bool(os.read(self._wake, 64))

    def _take_one(self) -> bool:
        """Answer one request, if there is one."""
        try:
            task = self._tasks.take()
        except httpx.HTTPError:
            time.sleep(_PAUSE_SECONDS)  # it has not come up yet
            return False
        if task is None:
            return False
        try:
            self._hand_over(task)
        except httpx.HTTPError as error:
            # What was formed is kept: the server asks for it by its ticket.
            _log.warning("an answer could not be handed over: %s", type(error).__name__)
        os.write(self._wake, b".")
        self._last = time.monotonic()
        return True

    def _hand_over(self, task: Task) -> None:
        try:
            content = self._tickets.answer(task.message)
        except Refusal as refusal:
            self._tasks.refuse(task, str(refusal))
        else:
            self._tasks.answer(task, content)

    def _reconnect(self) -> None:
        """After the answer in hand."""
        self._changed = True


if __name__ == "__main__":
    main()
