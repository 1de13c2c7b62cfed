"""The privacy ledgers of virtual sites: the same as in hospitals, each in its site's home."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flwr.app import RecordDict

from wardround_client.account import Account
from wardround_client.cohort import Cohort, CohortSet
from wardround_client.ledger import Ledger
from wardround_client.policy import Policy
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

    def require_room(self, study: Study, cohorts: CohortSet) -> None:
        """Refuse a study that some site would refuse.

        Raises:
            BudgetError: its plan does not fit into what a ledger has left.
            PrivacyError: no noise reaches the study's epsilon.
        """
        for cohort in cohorts.cohorts:
            self.account(study, cohort).admit(RecordDict())
