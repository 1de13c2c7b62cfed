"""The privacy ledgers of virtual sites: the same as in hospitals, each in its site's home."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flwr.app import RecordDict

from wardround_client.account import Account
from wardround_client.cohort import Cohort, CohortSet
from wardround_client.ledger import Ledger
from wardround_client.policy import Policy
from wardround_shared.errors import RunError
from wardround_shared.study import Study


@dataclass(frozen=True, kw_only=True)
class Ledgers:
    """Where each site keeps its ledger, and what it allows; small enough for a worker process.

    Attributes:
        homes: folder of each site.
        policy: of every site.
        data_set: name of the data, as the policy may know it.
    """

    homes: Mapping[str, Path]
    policy: Policy
    data_set: str

    @classmethod
    def at(cls, homes: Mapping[str, Path], *, policy: Policy, data_set: str) -> Self:
        """The ledgers in these homes; a site without one gets one.

        Raises:
            PrivacyError: a ledger is there and not sound, or cannot be written.
        """
        ledgers = cls(homes=homes, policy=policy, data_set=data_set)
        for site, home in homes.items():
            if home.is_dir() and Ledger.traces(home):
                ledgers.open(site)
            else:
                Ledger.create(home, site=site, durable=False)
        return ledgers

    def open(self, site: str) -> Ledger:
        """A site's ledger; a simulated site ends with its machine, so it need not outlive that.

        Raises:
            PrivacyError: the ledger is not sound.
        """
        return Ledger.open(self.homes[site], site=site, durable=False)

    def account(self, study: Study, cohort: Cohort) -> Account:
        """A private study's way to the ledger of the cohort's site."""
        return Account(
            study=study,
            cohort=cohort,
            ledger=self.open(cohort.site),
            policy=self.policy,
            data_set=self.data_set,
        )

    def require_new(self, study: Study, run: str) -> None:
        """Refuse the name of a run that a ledger knows: its rounds would pass for trained.

        Raises:
            RunError: there is one.
        """
        for site in self.homes:
            for entry in self.open(site).entries():
                if (entry.purpose.run, entry.purpose.study_id) == (run, study.study_id):
                    raise RunError(
                        f"{self.homes[site]}: the ledger knows a run of this study with the name "
                        f"{run}; name another run folder with --out."
                    )

    def require_room(self, study: Study, cohorts: CohortSet, *, run: str) -> None:
        """Refuse a study that some site would refuse in a run of that name.

        Raises:
            BudgetError: its plan does not fit into what a ledger has left.
            PrivacyError: no noise reaches the study's epsilon.
        """
        for cohort in cohorts.cohorts:
            self.account(study, cohort).admit(RecordDict(), run)


def claim_homes(folder: Path, *, data: Path | None, cohorts: CohortSet) -> None:
    """Note whose homes these are, so that no other dealing of the same patients opens new accounts.

    Args:
        folder: of all homes; made if need be.
        data: of the study; none for a study that makes its own.
        cohorts: of all sites.

    Raises:
        RunError: they are the homes of other data, or of other sites.
    """
    claim = {
        "data": None if data is None else str(data.resolve()),
        "sites": sorted(cohort.site for cohort in cohorts.cohorts),
    }
    file = folder / "homes.json"
    if file.is_file():
        if json.loads(file.read_text(encoding="utf-8")) != claim:
            raise RunError(
                f"{file}: these homes are of other data or of other sites, whose accounts say "
                "nothing about these patients; name another folder with --homes."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(claim), encoding="utf-8")
