"""A whole federation on one machine: the same ServerApp and ClientApps as in hospitals.

`simulate` reads the data once, deals it to virtual sites, runs the study over a backend and
leaves a run folder.
"""

import datetime
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.clientapp import ClientApp

from wardround_client.account import Account
from wardround_client.app import KnownSites, build_client_app
from wardround_client.cohort import Cohort, CohortSet, open_cohort
from wardround_client.journal import Journal
from wardround_client.personal_files import PERSONAL, PersonalFiles
from wardround_client.secure import SECURE, SecureMember, write_identity
from wardround_client.site import Site
from wardround_client.training import local_seed
from wardround_client.workplace import Models, Workplace
from wardround_server.app import build_server_app
from wardround_server.card import write_card
from wardround_server.coordinator import Coordinator, Outcome
from wardround_server.initial_weights import read_weights
from wardround_server.observer import Observer
from wardround_server.run_folder import INITIAL, STUDY, SUMMARY, RunFolder
from wardround_shared.errors import RunFolderError
from wardround_shared.privacy.noise import InjectedNoise, NoiseSource, SystemNoise
from wardround_shared.secure_aggregation import Identity
from wardround_shared.secure_aggregation.roster import (
    Roster,
    Terms,
)
from wardround_shared.study import Study, study_text
from wardround_simulations.backends import Node, ProcessPool, run
from wardround_simulations.ledgers import Ledgers
from wardround_simulations.settings import SITES, Settings, default_run_folder, resolve_device
from wardround_simulations.summary import Conduct, Status, summarise
from wardround_simulations.virtual_sites import (
    check_privacy,
    check_sites,
    ledgers_at,
    read_cohorts,
    site_homes,
)


@dataclass(frozen=True, kw_only=True)
class SiteClients:
    """Makes the `ClientApp` of every worker process; small enough to be sent to one."""

    study: Study
    cohorts: Mapping[str, Path]
    journals: Mapping[str, Path]
    ledgers: Ledgers | None
    run: str
    roster: Roster | None
    seed: int
    noise_seed: int | None

    def __call__(self, device: str) -> ClientApp:
        """A `ClientApp` that serves any of the sites on `device`."""
        workplace = Workplace(
            study=self.study,
            device=torch.device(device),
            seed=self.seed,
            noise_of=self._noise_of(),
            repeatable=True,
        )
        models = Models(workplace)
        sites: dict[str, Site] = {}

        def site_of(context: Context) -> Site:
            name = str(context.node_config["site"])
            if name not in sites:
                cohort = open_cohort(self.cohorts[name])
                sites[name] = Site(
                    cohort=cohort,
                    workplace=workplace,
                    models=models,
                    journal=Journal(self.journals[name]),
                    account=self._account(cohort),
                    member=self._member(name),
                    personal=PersonalFiles(
                        folder=self.journals[name] / PERSONAL,
                        run=self.run,
                        study_id=self.study.study_id,
                    ),
                )
            return sites[name]

        return build_client_app(KnownSites(site_of))

    def _noise_of(self) -> Callable[[str, int], NoiseSource]:
        """One source from the system for all; injected noise depends on site and round only."""
        if self.noise_seed is None:
            noise = SystemNoise()
            return lambda _site, _round: noise
        seed = self.noise_seed
        return lambda site, number: InjectedNoise(local_seed(seed, f"noise/{site}", number))

    def _account(self, cohort: Cohort) -> Account | None:
        return None if self.ledgers is None else self.ledgers.account(self.study, cohort)

    def _member(self, site: str) -> Callable[[], SecureMember] | None:
        if self.roster is None:
            return None
        terms = Terms(study_id=self.study.study_id, run=self.run, roster=self.roster)
        # Virtual sites end with their machine: their one-shot state need not outlive it.
        return partial(
            SecureMember,
            self.journals[site] / SECURE,
            terms=terms,
            site=site,
            smallest_cohort=self.study.aggregation.minimum_sites,
            durable=False,
        )


def simulate(
    settings: Settings,
    observer: Observer,
    *,
    pool: ProcessPool | None = None,
    cohorts: CohortSet | None = None,
) -> dict[str, Any]:
    """Run a study and return what stands in the run folder's `summary.json`.

    Args:
        settings: what to run.
        observer: is told how it goes.
        pool: workers that were started early; closed at the end.
        cohorts: of all virtual sites, in place of those that `read_cohorts` finds.

    Raises:
        WardroundError: of any kind; a run that had begun leaves its folder with the reason.
    """
    started = time.perf_counter()
    device = resolve_device(settings.device)
    with ExitStack() as stack:
        if pool is None and settings.backend == "process":
            # Workers import torch while this process reads the data.
            pool = ProcessPool(workers=settings.workers, device=device).start()
        if pool is not None:
            stack.enter_context(pool)
        if settings.out is not None and settings.out.exists():
            raise RunFolderError(
                f"{settings.out}: this run folder exists already; name another with --out."
            )
        weights = None if settings.weights is None else read_weights(settings.weights)
        cohorts = read_cohorts(settings) if cohorts is None else cohorts
        check_sites(settings.study, cohorts)
        check_privacy(settings, cohorts)
        folder = RunFolder.create(settings.out or default_run_folder(settings.study.study.name))
        folder.write_text(STUDY, study_text(settings.study))
        if weights is not None:
            folder.write_arrays(INITIAL, *weights)
        simulation = _Simulation(settings, device, cohorts, folder, started)
        return simulation.run(pool, observer)


class _Simulation:
    """One simulated run from its first message to its summary."""

    def __init__(
        self,
        settings: Settings,
        device: str,
        cohorts: CohortSet,
        folder: RunFolder,
        started: float,
    ) -> None:
        self._settings = settings
        self._study = settings.study
        self._device = device
        self._cohorts = cohorts
        self._folder = folder
        self._started = started
        self._outcome: Outcome | None = None
        self._journals = {
            cohort.site: folder.path / SITES / cohort.folder.name for cohort in cohorts.cohorts
        }
        self._ledgers = self._open_ledgers() if self._study.privacy.private else None
        self._conduct = Conduct(
            started=datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
            seed=settings.seed,
            backend=settings.backend,
            device=device,
            processes=1 if settings.backend == "inline" else settings.workers,
            injected_noise=settings.noise_seed is not None,
        )

    def run(self, pool: ProcessPool | None, observer: Observer) -> dict[str, Any]:
        roster = self._enrol() if self._study.aggregation.secure else None
        coordinator = Coordinator(
            study=self._study,
            run=self._folder.path.name,
            seed=self._settings.seed,
            roster=roster,
            folder=self._folder,
            observer=observer,
        )
        clients = SiteClients(
            study=self._study,
            cohorts={cohort.site: cohort.folder for cohort in self._cohorts.cohorts},
            journals=self._journals,
            ledgers=self._ledgers,
            run=self._folder.path.name,
            roster=roster,
            seed=self._settings.seed,
            noise_seed=self._settings.noise_seed,
        )
        nodes = [
            Node(node_id=number, name=cohort.site)
            for number, cohort in enumerate(self._cohorts.cohorts, start=1)
        ]
        self._write("running")
        try:
            run(
                self._settings.backend,
                server_app=build_server_app(coordinator, self._done),
                client_factory=clients,
                nodes=nodes,
                run_id=secrets.randbits(31),
                workers=self._settings.workers,
                device=self._device,
                pool=pool,
            )
            summary = self._write("complete")
        except KeyboardInterrupt:
            self._write("interrupted", "Ctrl-C")
            raise
        except BaseException as error:
            # On a full disk the summary cannot be written either; it goes on saying "running".
            with suppress(RunFolderError):
                self._write("failed", str(error) or type(error).__name__)
            raise
        write_card(self._folder, self._study, summary)
        return summary

    def _open_ledgers(self) -> Ledgers:
        """Each site's ledger, in the run's folder unless the sites have homes of their own."""
        homes = self._settings.homes
        kept = self._journals if homes is None else site_homes(homes, self._cohorts)
        return ledgers_at(self._settings, kept)

    def _enrol(self) -> Roster:
        """Give each virtual site an identity, and put all of them into the run's roster."""
        members = {}
        for site, folder in self._journals.items():
            private = os.urandom(32)
            write_identity(folder / SECURE, private)
            members[site] = Identity(private).public
        return Roster.of(members, minimum_sites=self._study.aggregation.minimum_sites)

    def _done(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def _write(self, status: Status, reason: str = "") -> dict[str, Any]:
        summary = summarise(
            study=self._study,
            cohorts=self._cohorts,
            folder=self._folder.path,
            journals=self._journals,
            ledgers=self._ledgers,
            outcome=self._outcome,
            status=status,
            reason=reason,
            conduct=self._conduct,
            seconds=time.perf_counter() - self._started,
        )
        self._folder.write_json(SUMMARY, summary)
        return summary
