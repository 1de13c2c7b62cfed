"""Child process: one run, from its first message, or from where it stood, to its end.

Exit code 0: the run is not to be taken up again by itself, and `run.json` says how it stands. Any
other: it is. Nothing here is needed after a crash: a new runner starts a new Flower run, and the
run folder and the sites' homes have everything else.
"""

import dataclasses
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from wardround_server.coordinator import Coordinator, as_json
from wardround_server.daemon.delivery import Delivery
from wardround_server.daemon.introduction import Introduction
from wardround_server.daemon.presence import Presence
from wardround_server.daemon.runs import Runs
from wardround_server.daemon.status import Status
from wardround_server.daemon.terms import gather, known_roster
from wardround_server.enrolment.heard import note_heard
from wardround_server.enrolment.home import ServerHome
from wardround_server.enrolment.rosters import current_roster, node_keys
from wardround_server.flower.control import Door, Operator
from wardround_server.flower.grid import RunGrid
from wardround_server.greeting import Joined, greet
from wardround_server.initial_weights import initial_said
from wardround_server.participation import participation_in
from wardround_server.run_folder import SUMMARY, RunFolder
from wardround_shared import __version__
from wardround_shared.agreement import Offer
from wardround_shared.audit_log import AuditLog
from wardround_shared.consortium.roster_file import SignedRoster
from wardround_shared.errors import StoppedError, WardroundError
from wardround_shared.messages import Header
from wardround_shared.secure_aggregation.roster import Roster
from wardround_shared.study import promise, study_text
from wardround_shared.supervision import child_settings, log_as
from wardround_shared.times import utc_now

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_FLOWER = "flower.json"


def main() -> None:
    """Run as the first line of standard input says."""
    settings = child_settings()
    log_as("runner")
    home, name = ServerHome.open(Path(settings["home"])), settings["run"]
    runs = Runs(home.runs)
    runs.change(name, "running", only={"submitted", "running"})
    try:
        Runner(home, name).run(Door(port=settings["port"], token=settings["token"]))
    except StoppedError:
        return
    except WardroundError as error:
        _log.error("run %s: %s", name, error)
        AuditLog(home.audit_log).append("failed", run=name)
        runs.change(name, "failed", why=str(error), only={"running", "submitted"})
        return
    runs.change(name, "finished", only={"running", "submitted", "stopped"})


class Runner:
    """One run."""

    def __init__(self, home: ServerHome, name: str) -> None:
        self._home = home
        self._name = name
        self._runs = Runs(home.runs)
        self._record = self._runs.read(name)
        self._study = self._runs.study(name)
        self._folder = RunFolder.open(self._runs.folder / name, durable=True)
        self._audit = AuditLog(home.audit_log)
        self._status = Status(
            self._folder,
            run=name,
            rounds=self._study.training.rounds,
            audit=self._audit,
        )
        self._looked = time.monotonic()
        self._stopped = False

    def run(self, door: Door) -> None:
        """Carry the run out, over a Flower run of its own.

        Raises:
            StoppedError: it was told to stop.
            WardroundError: it cannot go on, and trying again would not help.
        """
        with Operator(door) as operator, self._flower_run(operator) as token:
            grid = RunGrid(door, token)
            try:
                self._coordinate(grid)
            finally:
                grid.close()
                with suppress(httpx.HTTPError):
                    operator.finish(token, status="completed")

    def _coordinate(self, grid: RunGrid) -> None:
        study, started = self._study, time.monotonic()
        delivery = Delivery(grid, progress=self._status.progress, check=self._check)
        introduction = self._introduction(grid, delivery)
        if study.aggregation.secure:
            introduction.roster = self._roster(introduction)
            introduction.expected = len(introduction.roster)

        def attendance(joined: Joined) -> Presence:
            self._status.known(joined.names)
            return Presence(
                joined,
                delivery=delivery,
                greet=lambda nodes, patience: self._greet_again(
                    introduction, joined, nodes, patience
                ),
                told=self._status.moved,
                waiting=self._status.waiting_outside,
                check=self._check,
            )

        outcome = Coordinator(
            study=study,
            run=self._name,
            seed=self._record.seed,
            folder=self._folder,
            observer=self._status,
            roster=introduction.roster,
            attendance_of=attendance,
            should_stop=self._should_stop,
        ).run(introduction)
        took_part = participation_in(
            self._folder.path, sites=outcome.sites, planned=study.training.rounds
        )
        self._folder.write_json(
            SUMMARY,
            {
                "participation": took_part.as_json(),
                "study": study.study.name,
                "study_id": study.study_id,
                "run": self._name,
                "status": "complete",
                "seed": self._record.seed,
                "initial_weights": initial_said(self._folder.path),
                "task": study.study.task,
                "classes": list(study.study.classes),
                "privacy": promise(study),
                # Sites in hospitals have no other: noise of a seed is for tests on one machine.
                "noise": "system",
                "secure_aggregation": study.aggregation.secure,
                "software": __version__,
                "seconds": {"since_last_start": time.monotonic() - started},
                "counts": {"overall": outcome.counts.tolist()},
            }
            | as_json(outcome),
        )
        self._status.stage("finished")
        self._audit.append("finished", run=self._name)

    # --- who takes part ----------------------------------------------------------------------

    def _introduction(self, grid: RunGrid, delivery: Delivery) -> Introduction:
        text = study_text(self._study)

        def offer() -> Offer:
            """With the newest roster: sites that have it refuse an older one."""
            return Offer(study=text, roster=current_roster(self._home).to_bytes().decode())

        def site_of(node: int) -> str | None:
            """By its key: what a site calls itself is no proof."""
            state = grid.nodes().get(node)
            keys = node_keys(self._home, now=utc_now())
            return None if state is None else keys.get(state.public_key)

        def greeted(site: str, offered: Offer) -> None:
            version = SignedRoster.parse(offered.roster.encode()).version
            try:
                note_heard(self._home, {site: version})
            except WardroundError as error:
                _log.warning("which roster %s has cannot be noted: %s", site, error)

        self._status.name_of = site_of
        return Introduction(
            delivery=delivery,
            offer=offer,
            expected=len(self._record.sites) or self._study.aggregation.minimum_sites,
            site_of=site_of,
            greeted=greeted,
        )

    def _roster(self, introduction: Introduction) -> Roster:
        """The run's roster, formed with whoever is there if the run is new."""
        roster = known_roster(self._folder)
        if roster is not None:
            return roster
        self._status.stage("waiting for approval")
        return gather(
            introduction,
            self._header,
            study=self._study,
            identities=lambda: current_roster(self._home).identities(),
            wanted=self._record.sites,
            folder=self._folder,
            observer=self._status,
            check=self._check,
        )

    def _greet_again(
        self, introduction: Introduction, first: Joined, nodes: tuple[int, ...], patience: float
    ) -> Joined:
        joined = greet(
            dataclasses.replace(introduction, only=nodes),
            self._header,
            minimum_sites=0,
            deadline=min(patience, self._study.aggregation.deadline),
            members=None if introduction.roster is None else introduction.roster.sites,
            shapes=first.shapes,
        )
        self._status.known(joined.names)
        return joined

    @property
    def _header(self) -> Header:
        return Header(study_id=self._study.study_id, run=self._name, round=0)

    # --- stopping ----------------------------------------------------------------------------

    def _should_stop(self) -> bool:
        if not self._stopped and time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._stopped = not self._runs.read(self._name).active
        return self._stopped

    def _check(self) -> None:
        if self._should_stop():
            raise StoppedError("The run was told to stop; resume it to go on from where it is.")

    # --- the Flower run ----------------------------------------------------------------------

    @contextmanager
    def _flower_run(self, operator: Operator) -> Iterator[str]:
        """A new Flower run, and the token of its task; the one before, if any, is ended.

        Runners start one after the other: a waiting task is taken by whoever asks first.
        """
        file = self._folder.path / _FLOWER
        with suppress(OSError, ValueError, KeyError, httpx.HTTPError):
            operator.stop_run(int(json.loads(file.read_text(encoding="utf-8"))["run"]))
        with _in_turn(self._home.state.parent):
            run_id = operator.start_run()
            self._folder.write_json(_FLOWER, {"run": str(run_id)})
            token = _task_of(operator, run_id)
        yield token


def _task_of(operator: Operator, run_id: int) -> str:
    """The token of a run's task; tasks that others have left behind are ended on the way."""
    while (found := operator.acquire()) is not None:
        if found[0] == run_id:
            return found[1]
        operator.finish(found[1], status="failed", details="left behind")
    msg = "Flower has not made a task for the run"
    raise RuntimeError(msg)  # none of ours: the run is taken up again


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    file = os.open(folder / "start.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


if __name__ == "__main__":
    main()
