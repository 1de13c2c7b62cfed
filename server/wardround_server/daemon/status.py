"""What a runner says of itself while it is at work: `status.json`, for people and for metrics."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from wardround_server.daemon.runs import STATUS
from wardround_server.observer import Metrics, Observer
from wardround_server.rounds import Dropped, RosterLine
from wardround_server.run_folder import RunFolder
from wardround_shared.audit_log import AuditLog, Told
from wardround_shared.delivery import Working
from wardround_shared.errors import RunFolderError

_OFTEN = 1.0
"""Seconds between two writings, where only progress has changed."""


class Status(Observer):
    """Watches a run and keeps its status file and the audit log."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        run: str,
        rounds: int,
        audit: AuditLog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._run = run
        self._audit = audit
        self.name_of: Callable[[int], str | None] = lambda _: None
        self._clock = clock
        self._written = clock() - _OFTEN
        self._names: dict[int, str] = {}
        self._content: dict[str, Any] = {
            "stage": "starting",
            "round": 0,
            "rounds": rounds,
            "attempt": 0,
            "since": _now(),
            "waiting_for": {},
            "missing": {},
            "sites": {},
            "metrics": {},
        }

    def stage(self, stage: str) -> None:
        """Note what the run does now."""
        self._change(stage=stage)

    def known(self, names: Mapping[int, str]) -> None:
        """Note which node is which site's."""
        self._names.update(names)

    def progress(self, node: int, working: Working) -> None:
        """A site says how far it is."""
        site = self._names.get(node) or self._named(f"node {node}")
        self._content["sites"][site] = {
            "stage": working.stage,
            "done": working.done,
            "total": working.total,
            "since": _now(),
        }
        if self._clock() - self._written > _OFTEN:
            self._write()

    def moved(self, missing: Mapping[str, str], back: Mapping[str, str]) -> None:
        """Sites that were left out, and those that have come back."""
        known: dict[str, Any] = self._content["missing"]
        for site, why in missing.items():
            known[site] = {"why": why, "since": _now()}
            self._audit.append("dropped", run=self._run, site=site, reason=Told(why))
        for site in back:
            if known.pop(site, None) is not None:
                self._audit.append("returned", run=self._run, site=site)
        self._write()

    def joined(self, sites: Sequence[str], absent: Sequence[Dropped]) -> None:
        """See `Observer.joined`."""
        missing = {self._named(one.site): {"why": one.why, "since": _now()} for one in absent}
        self._change(stage="greeting", missing=missing)

    def opened(self, round_number: int, attempt: int, invited: Sequence[str]) -> None:
        """See `Observer.opened`."""
        self._change(
            stage="asking the sites",
            round=round_number,
            attempt=attempt,
            since=_now(),
            waiting_for=dict.fromkeys(invited, "no answer yet"),
            sites={},
        )

    def waiting(self, round_number: int, sites: Mapping[str, str], why: str) -> None:
        """See `Observer.waiting`."""
        since = self._content["since"]
        if self._content["stage"] != "paused":
            self._audit.append("paused", run=self._run, round=round_number, reason=Told(why))
            since = _now()
        self._change(
            stage="paused", why=why, round=round_number, waiting_for=dict(sites), since=since
        )

    def waiting_outside(self, sites: Mapping[str, str]) -> None:
        """Too few sites are there to ask for a sum; these are waited for."""
        self.waiting(self._content["round"], sites, "Too few sites are connected and have greeted.")

    def answered(self, round_number: int, site: str, failure: str) -> None:
        """See `Observer.answered`."""
        self._content["waiting_for"].pop(site, None)
        self._content["sites"].pop(site, None)
        self._write()

    def closed(self, line: RosterLine, metrics_before: Metrics, seconds: float) -> None:
        """See `Observer.closed`."""
        self._audit.append(
            "round", run=self._run, round=line.round, sites=len(line.aggregated), seconds=seconds
        )
        self._change(stage="between rounds", waiting_for={}, metrics=metrics_before, closed=_now())

    # --- parts -------------------------------------------------------------------------------

    def _named(self, site: str) -> str:
        """The site behind a node that has not said its name."""
        node = site.removeprefix("node ")
        return (node != site and node.isdigit() and self.name_of(int(node))) or site

    def _change(self, **changes: Any) -> None:
        self._content.pop("why", None)
        self._content |= changes
        self._write()

    def _write(self) -> None:
        self._written = self._clock()
        self._content["updated"] = _now()
        # A status that cannot be written stops no run.
        with suppress(RunFolderError):
            self._folder.write_json(STATUS, self._content)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
