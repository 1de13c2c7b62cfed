"""The runs that this site takes part in: what was offered, agreed to, and who answers.

A run is known by name and study. Its roster is formed here, of the consortium's signed roster and
the names that the server gives, and holds for as long as the run does: the server can leave sites
out and invent none.
"""

import functools
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import torch
from flwr.app import Context, RecordDict

from wardround_client.account import Account
from wardround_client.answer_files import AnswerFiles
from wardround_client.answers import Asked, Formed
from wardround_client.app import build_client_app
from wardround_client.approvals import Approvals
from wardround_client.cohort import Cohort
from wardround_client.daemon.record import recorded
from wardround_client.data_sets import DataSets, cohort_for
from wardround_client.durable import keeping, locked, private_folder, replace
from wardround_client.enrolment.home import SiteHome
from wardround_client.enrolment.joining import RosterNews, membership, take_roster
from wardround_client.journal import Journal
from wardround_client.ledger import Ledger, Purpose
from wardround_client.ledger.chain import Cap
from wardround_client.personal_files import PERSONAL, PersonalFiles
from wardround_client.policy import Policy, load_policy
from wardround_client.progress import Progress
from wardround_client.run_state import STATE, StateFile
from wardround_client.secure import SECURE, SecureMember
from wardround_client.site import Site
from wardround_client.workplace import Models, Workplace
from wardround_shared.agreement import (
    agreed_record,
    read_offer,
    read_terms,
    require_plain,
    require_same_release,
)
from wardround_shared.audit_log import AuditLog
from wardround_shared.errors import NotAllowedError, ProtocolError, TrustError
from wardround_shared.messages import Header
from wardround_shared.privacy.accounting import SampledGaussian
from wardround_shared.privacy.noise import SystemNoise
from wardround_shared.secure_aggregation.faults import SecureAggregationError
from wardround_shared.secure_aggregation.roster import Roster, Terms
from wardround_shared.study import Study, parse_study

_log = logging.getLogger(__name__)

_TERMS = "terms.json"
_ANSWERS = "answers"
_PART_OF_ID = 12


def answerer(
    home: SiteHome, *, progress: Progress, reconnect: Callable[[], None]
) -> Callable[[str, RecordDict], RecordDict]:
    """What forms this site's answers: type and content of a request -> content of its answer."""
    participation = Participation(home, progress=progress, reconnect=reconnect)
    app = build_client_app(participation, repeats=True)
    return recorded(app, home.audit_log, worked=participation.worked)


@dataclass(frozen=True, kw_only=True)
class _NotedAnswers(AnswerFiles):
    """Answers on disk; `note` is called with each new one."""

    note: Callable[[], None]

    def store(self, asked: Asked, formed: Formed) -> None:
        """See `AnswerStore.store`."""
        super().store(asked, formed)
        self.note()


class AuditedLedger(Ledger):
    """The ledger, with a line in the audit log for each reservation."""

    audit: AuditLog

    def reserve(
        self, cost: SampledGaussian, *, purpose: Purpose, cap: Cap, take_up: bool = False
    ) -> int:
        """See `Ledger.reserve`."""
        before = len(self.entries())
        number = super().reserve(cost, purpose=purpose, cap=cap, take_up=take_up)
        self.audit.append(
            # A training that was broken off and is done again was paid for then.
            "reserved" if number > before else "resumed",
            reservation=number,
            run=purpose.run,
            round=purpose.round,
            study=purpose.study_id,
        )
        return number


class Participation:
    """`Sites` of a daemon: one site, and each run that it has agreed to."""

    def __init__(
        self,
        home: SiteHome,
        *,
        progress: Progress,
        reconnect: Callable[[], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """The runs of a site that has joined.

        Args:
            home: of the site.
            progress: is told how far long work has got.
            reconnect: called when keys or authorities have changed: the node connects anew.
            now: the clock.

        Raises:
            WardroundError: the site has not joined, or a file of its home is not in order.
        """
        self._home = home
        self._name = membership(home).site
        self._progress = progress
        self._reconnect = reconnect
        self._worked = False
        self._now = now
        self._audit = AuditLog(home.audit_log)
        self._approvals = Approvals(home.studies)
        self._sites: dict[tuple[str, ...], Site] = {}

    def worked(self) -> bool:
        """Whether an answer was formed since this was asked last; else it came from the store."""
        worked, self._worked = self._worked, False
        return worked

    def _note_work(self) -> None:
        self._worked = True

    # --- the first two messages of a run --------------------------------------------------------

    def offered(self, header: Header, content: RecordDict) -> None:
        """Take the roster and the study that the first message brings.

        Raises:
            TrustError: the roster is not the consortium's, or older than the one that is held.
            NotAllowedError: the study is not approved here, or not allowed.
            ProtocolError: the study is not the one that the message is about.
        """
        offer = read_offer(content)
        require_same_release(offer.software, who="The server")
        self._heard(take_roster(self._home, offer.roster.encode(), now=self._now()))
        study = parse_study(offer.study, origin="the study that the server offers")
        if study.study_id != header.study_id:
            raise ProtocolError("The server offers another study than it asks for; refused.")
        new = not (self._home.studies / header.study_id).exists()
        self._approvals.keep(offer.study)
        if new:
            self._audit.append("offered", study=header.study_id)
        self._allowed(header, sites=None)

    def agreed(self, header: Header, content: RecordDict) -> RecordDict:
        """Form the roster of a run and hold on to it.

        Raises:
            TrustError: a site that the consortium has not admitted, or other sites than before.
            NotAllowedError: fewer sites than this hospital's policy wants.
        """
        names = read_terms(content)
        study, _ = self._allowed(header, sites=len(names))
        with keeping("The terms of this run"):
            roster = self._held_roster(header, names, study)
            # A run whose terms are refused has not used the approval up.
            self._approvals.use_for(header.study_id, header.run)
        return agreed_record(roster.digest)

    def site(self, context: Context, header: Header, *, touching: bool) -> Site:
        """The site that answers in this run; its cohort stays in memory.

        Raises:
            WardroundError: the study is not approved, or the data cannot be used.
        """
        study, data_set = self._allowed(header, sites=None, any_hour=not touching)
        if touching:
            with keeping("What this site's approval was used for"):
                self._approvals.use_for(header.study_id, header.run)
        # A policy, or a data set, that was changed holds from the next request on.
        policy = self._policy().model_dump_json()
        where = DataSets(self._home.data_sets).get(data_set)
        key = (header.study_id, header.run, policy, f"{data_set}/{where.source}/{where.path}")
        if key not in self._sites:
            self._sites = {key: self._opened(header, study, data_set)}
        return self._sites[key]

    # --- parts -------------------------------------------------------------------------------

    def _heard(self, news: RosterNews) -> None:
        if not news.changed:
            return
        self._audit.append("roster", version=news.version)
        if news.own_keys or news.authorities:
            self._reconnect()

    def _allowed(
        self, header: Header, *, sites: int | None, any_hour: bool = False
    ) -> tuple[Study, str]:
        """The study and its data set, if staff and policy allow it now."""
        require_plain(header)
        study, data_set = self._approvals.require_approved(header.study_id)
        self._approvals.require_run(header.study_id, header.run)
        policy = self._policy()
        for sentence in policy.refusals(study, data_set=data_set, sites=sites):
            raise NotAllowedError(sentence)
        if not any_hour:
            policy.check(study, data_set=data_set, sites=sites, now=self._now())
        return study, data_set

    def _policy(self) -> Policy:
        return load_policy(self._home.policy)

    def _formed(self, names: tuple[str, ...], study: Study) -> Roster:
        roster = membership(self._home).roster
        identities = roster.identities()
        strangers = sorted(set(names) - identities.keys())
        if strangers or self._name not in names or len(set(names)) != len(names):
            raise TrustError(
                f"The server names sites of the run that version {roster.version} of the "
                "consortium's roster does not have, or leaves this one out; refused."
            )
        # As the server forms it; what is not enough for this site's policy, it refuses.
        formed = Roster.of(
            {name: identities[name] for name in names},
            minimum_sites=study.aggregation.minimum_sites,
        )
        minimum = self._policy().rules.minimum_cohort
        if formed.threshold < minimum:
            raise NotAllowedError(
                f"The run lets {formed.threshold} sites make a sum, and this site's policy wants "
                f"{minimum} (rules.minimum-cohort); ask more sites, or raise minimum-sites."
            )
        return formed

    def _held_roster(self, header: Header, names: tuple[str, ...], study: Study) -> Roster:
        """The roster of a run: the one that was formed first, as long as the run goes on."""
        folder = self._folder(header)
        private_folder(folder)
        with locked(folder):
            known = self._known_roster(header)
            if known is None:
                known = self._formed(names, study)
                content = {
                    "study_id": header.study_id,
                    "run": header.run,
                    "roster": known.to_bytes().hex(),
                }
                replace(folder / _TERMS, [json.dumps(content).encode()])
            elif known.sites != tuple(sorted(names)):
                raise TrustError(
                    f"The run {header.run} was agreed on with other sites; start a new run."
                )
        self._require_members(known)
        return known

    def _require_members(self, roster: Roster) -> None:
        """Refuse a run with a site that the consortium has taken off its roster.

        Raises:
            TrustError: there is one.
        """
        gone = set(roster.sites) - membership(self._home).roster.identities().keys()
        if gone:
            raise TrustError(
                f"The run has sites that are not in the consortium's roster any more "
                f"({', '.join(sorted(gone))}); start a new run without them."
            )

    def _known_roster(self, header: Header) -> Roster | None:
        try:
            content = json.loads((self._folder(header) / _TERMS).read_text(encoding="utf-8"))
            if (content["study_id"], content["run"]) != (header.study_id, header.run):
                raise ValueError("the terms of another run")
            return Roster.from_bytes(bytes.fromhex(content["roster"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, SecureAggregationError) as error:
            raise ProtocolError(
                "What this site keeps of the terms of this run is damaged; its staff have to bring "
                "it back from a backup, or the run is started anew."
            ) from error

    def _folder(self, header: Header) -> Path:
        # A name from the network names no folder.
        digest = sha256(json.dumps([header.study_id, header.run]).encode()).hexdigest()
        return self._home.runs / digest[:32]

    def _opened(self, header: Header, study: Study, data_set: str) -> Site:
        policy, folder = self._policy(), self._folder(header)
        self._progress("reading the data", 0, 0)
        cohort = cohort_for(
            study,
            DataSets(self._home.data_sets).get(data_set),
            site=self._name,
            cache=self._home.cache,
            rules=policy.rules,
        )
        workplace = Workplace(
            study=study,
            device=_device(policy),
            seed=int(study.study_id[:_PART_OF_ID], 16) % 2**31,
            noise_of=lambda _site, _round: SystemNoise(),
            # Rounding protects nobody. Without noise, a run that was interrupted shall end with
            # the very model of one that was not.
            repeatable=not study.privacy.private,
        )
        of_run = {"run": header.run, "study_id": header.study_id}
        return Site(
            cohort=cohort,
            workplace=workplace,
            models=Models(workplace),
            journal=Journal(folder),
            account=self._account(study, cohort, policy, data_set),
            member=self._member(header, study, policy),
            answers=_NotedAnswers(folder=folder / _ANSWERS, note=self._note_work, **of_run),
            state=StateFile(file=folder / STATE, **of_run),
            personal=PersonalFiles(folder=folder / PERSONAL, **of_run),
            progress=self._progress,
        )

    def _account(
        self, study: Study, cohort: Cohort, policy: Policy, data_set: str
    ) -> Account | None:
        if not study.privacy.private:
            return None
        ledger = AuditedLedger.open(self._home.folder, site=self._name)
        ledger.audit = self._audit
        return Account(study=study, cohort=cohort, ledger=ledger, policy=policy, data_set=data_set)

    def _member(
        self, header: Header, study: Study, policy: Policy
    ) -> Callable[[], SecureMember] | None:
        if not study.aggregation.secure:
            return None

        def member() -> SecureMember:
            roster = self._known_roster(header)
            if roster is None:
                raise NotAllowedError("The sites of this run were not agreed on; start it anew.")
            self._require_members(roster)
            identity = roster.identity(roster.index(self._name)).hex()
            return SecureMember(
                self._folder(header) / SECURE,
                terms=Terms(study_id=header.study_id, run=header.run, roster=roster),
                site=self._name,
                smallest_cohort=max(study.aggregation.minimum_sites, policy.rules.minimum_cohort),
                durable=True,
                identity_file=self._home.identity_file(identity),
            )

        return member


@functools.lru_cache(maxsize=1)
def _cuda() -> bool:
    return torch.cuda.is_available()


def _device(policy: Policy) -> torch.device:
    wanted = policy.rules.device
    if wanted == "cuda" and not _cuda():
        raise NotAllowedError(
            "This site's policy wants a GPU (rules.device), and there is none that works."
        )
    return torch.device("cuda" if _cuda() and wanted != "cpu" else "cpu")
