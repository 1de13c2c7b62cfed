"""What a site takes part in: attacks by a server that offers, names and asks what it likes."""

import functools
import itertools
import json
from datetime import UTC, datetime

import numpy as np
import pytest
from consortia import Consortium, edited
from flwr.app import Context, RecordDict
from hospitals import write_hospital

from wardround_client.approvals import Approvals
from wardround_client.daemon import participation
from wardround_client.daemon.participation import Participation, answerer
from wardround_client.data_sets import DataSets, cohort_for
from wardround_client.enrolment.rotation import rotate
from wardround_client.refusals import reason_of
from wardround_server.enrolment.admission import revoke
from wardround_server.enrolment.renewal import rotate_ca
from wardround_server.enrolment.rosters import current_roster
from wardround_server.exchange import Answer
from wardround_server.observer import Observer
from wardround_server.secure_sums import SecureSums
from wardround_shared.agreement import Offer, read_agreed, with_offer, with_terms
from wardround_shared.audit_log import verify
from wardround_shared.errors import (
    AuditError,
    DataError,
    EnrolmentError,
    NotAllowedError,
    PolicyError,
    ProtocolError,
    TrustError,
    WardroundError,
)
from wardround_shared.messages import (
    CLASS_COUNTS,
    HELLO,
    TRAIN,
    UNMASK,
    GlobalModel,
    Header,
    header_record,
    model_record,
    read_greeting,
)
from wardround_shared.secure_aggregation.roster import Roster, Terms
from wardround_shared.study import load_study, study_text

NAMES = ("east", "north", "south", "west")
SECURE = ("aggregation.secure=true", "aggregation.minimum-sites=3")


class Scene:
    """The site `north` of a consortium of four, and a server that says what a test wants."""

    def __init__(self, folder, study_file):
        self.folder = folder
        self.centre = Consortium(folder)
        self.sites = {name: self.centre.site(name) for name in NAMES}
        for name in NAMES:
            self.centre.join(self.sites[name])
        self.home = self.sites["north"]
        self.study_file = study_file
        self.study = load_study(study_file, SECURE)
        self.reconnected = 0
        self.hour = None
        (folder / "clinic").mkdir()
        write_hospital(folder / "clinic" / "north.csv", seed=1)
        DataSets(self.home.data_sets).add("clinic", folder / "clinic", "table")
        self.learn()
        self.start()

    def start(self):
        self.participation = Participation(
            self.home, progress=lambda *_: None, reconnect=self._reconnect, now=self._now
        )

    def _reconnect(self):
        self.reconnected += 1

    def _now(self):
        return self.hour or self.centre.now

    def learn(self):
        """The newest roster, as the server brings it."""
        self.roster = current_roster(self.centre.home).to_bytes()

    def header(self, *, study=None, run="run-1", number=0):
        return Header(study_id=(study or self.study).study_id, run=run, round=number)

    def offer(self, *, study=None, text=None, roster=None, header=None):
        offer = Offer(
            study=text or study_text(study or self.study),
            roster=(roster or self.roster).decode(),
        )
        header = header or self.header(study=study)
        return self.participation.offered(header, with_offer(header_record(header), offer))

    def approve(self, study=None):
        approvals = Approvals(self.home.studies)
        study = approvals.keep(study_text(study or self.study))
        approvals.approve(study.study_id, data_set="clinic")

    def agree(self, *sites, **about):
        header = self.header(**about)
        content = with_terms(header_record(header), sites or NAMES)
        return read_agreed(self.participation.agreed(header, content))

    def ask(self, *, touching, **about):
        context = Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config={})
        return self.participation.site(context, self.header(**about), touching=touching)

    def policy(self, **rules):
        lines = [f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in rules.items()]
        self.home.policy.write_text("[rules]\n" + "\n".join(lines) + "\n")

    def events(self):
        if not self.home.audit_log.exists():
            return []
        assert not verify(self.home.audit_log)
        lines = self.home.audit_log.read_text().splitlines()
        return [json.loads(line)["event"] for line in lines]


@pytest.fixture
def scene(tmp_path, study_file):
    return Scene(tmp_path, study_file)


@pytest.fixture
def approved(scene):
    scene.approve()
    scene.offer()
    return scene


# --- what is offered -------------------------------------------------------------------------


def test_a_study_that_is_offered_waits_for_the_staff(scene):
    with pytest.raises(NotAllowedError, match="has not approved"):
        scene.offer()
    (offer,) = Approvals(scene.home.studies).offered()
    assert (offer.study.study_id, offer.decision) == (scene.study.study_id, None)
    with pytest.raises(NotAllowedError):
        scene.offer()
    assert scene.events() == ["roster", "offered"]
    scene.approve()
    scene.offer()


def test_a_study_that_is_not_the_one_it_is_about_is_refused(approved):
    """Its name is approved, its content is another's."""
    other = load_study(approved.study_file, (*SECURE, "training.rounds=99"))
    with pytest.raises(ProtocolError, match="another study than it asks for"):
        approved.offer(text=study_text(other))
    assert len(Approvals(approved.home.studies).offered()) == 1, "it was kept"
    with pytest.raises(NotAllowedError, match="has not approved"):
        approved.offer(study=other)


@pytest.mark.parametrize("study_id", ["", "../north", "/etc", "ab" * 32, "A" * 64, "x\0y"])
def test_an_id_that_is_none_is_refused(approved, study_id):
    header = Header(study_id=study_id, run="run-1", round=0)
    with pytest.raises((ProtocolError, NotAllowedError)):
        approved.offer(header=header)
    with pytest.raises(NotAllowedError):
        approved.participation.agreed(header, with_terms(header_record(header), NAMES))


def test_another_release_of_the_server_is_refused_before_anything_is_taken(scene):
    offer = Offer(study=study_text(scene.study), roster=scene.roster.decode(), software="9.9.9")
    header, before = scene.header(), scene.home.roster.read_bytes()
    with pytest.raises(ProtocolError, match=r"The server runs wardround 9[.]9[.]9"):
        scene.participation.offered(header, with_offer(header_record(header), offer))
    assert scene.home.roster.read_bytes() == before
    assert not scene.home.studies.exists()


def test_an_older_roster_is_refused(approved):
    old = approved.roster
    approved.centre.join(approved.centre.site("later"))
    approved.learn()
    approved.offer()
    with pytest.raises(TrustError, match="older"):
        approved.offer(roster=old)


def test_a_roster_of_another_consortium_is_refused(approved, tmp_path):
    evil = Consortium(tmp_path / "evil")
    for name in NAMES:
        evil.join(evil.site(name))
    evil.join(evil.site("more"))
    before = approved.home.roster.read_bytes()
    with pytest.raises(TrustError, match="not signed by the consortium's key"):
        approved.offer(roster=current_roster(evil.home).to_bytes())
    assert approved.home.roster.read_bytes() == before


@pytest.mark.parametrize("change", [{"version": 99}, {"lines": []}, {"issued": "2099-01-01"}])
def test_a_roster_that_was_changed_is_refused(approved, change):
    with pytest.raises((TrustError, EnrolmentError)):
        approved.offer(roster=edited(approved.roster, **change))


def test_a_site_that_was_revoked_refuses_from_then_on(approved):
    revoke(approved.centre.home, "north", now=approved.centre.later())
    approved.learn()
    with pytest.raises(EnrolmentError, match="revoked"):
        approved.offer()


def test_new_keys_and_new_authorities_connect_anew_and_a_new_site_does_not(approved):
    centre = approved.centre
    centre.join(centre.site("later"))
    approved.learn()
    approved.offer()
    assert approved.reconnected == 0
    rotate(approved.home, approved.folder / "n.wardround-request", now=centre.later())
    centre.admit(approved.folder / "n.wardround-request")
    approved.learn()
    approved.offer()
    assert approved.reconnected == 1
    rotate_ca(centre.home, now=centre.later())
    approved.learn()
    approved.offer()
    approved.offer()
    assert approved.reconnected == 2
    assert approved.events().count("roster") == 4


# --- the sites of a run ----------------------------------------------------------------------


def expected(scene, *names, minimum=3):
    identities = current_roster(scene.centre.home).identities()
    return Roster.of({name: identities[name] for name in names}, minimum_sites=minimum)


def test_the_roster_of_a_run_is_formed_of_the_consortium_s(approved):
    assert approved.agree() == expected(approved, *NAMES).digest


def test_the_order_in_which_sites_are_named_is_nothing(approved):
    assert approved.agree("west", "north", "east") == expected(approved, *NAMES[:2], "west").digest


@pytest.mark.parametrize(
    "names",
    [
        (*NAMES, "stranger"),
        ("stranger", "north", "other"),
        ("east", "south", "west"),
        ("north", "north", "east", "west"),
        ("north", "North", "east"),
        (),
        ("",),
    ],
)
def test_a_stranger_a_namesake_or_a_run_without_this_site_is_refused(approved, names):
    header = approved.header()
    with pytest.raises(TrustError, match="The server names sites"):
        approved.participation.agreed(header, with_terms(header_record(header), names))
    assert not list(approved.home.runs.rglob("terms.json"))


def test_other_sites_for_the_same_run_are_refused(approved):
    first = approved.agree()
    with pytest.raises(TrustError, match="agreed on with other sites"):
        approved.agree("east", "north", "west")
    approved.start()  # after a restart too
    with pytest.raises(TrustError, match="agreed on with other sites"):
        approved.agree("east", "north", "west")
    assert approved.agree() == first
    approved.approve()
    assert approved.agree("east", "north", "west", run="run-2") != first


def test_the_roster_of_a_run_stays_when_a_site_joins_the_consortium(approved):
    first = approved.agree()
    approved.centre.join(approved.centre.site("later"))
    approved.learn()
    approved.offer()
    assert approved.agree() == first


def test_a_run_with_a_site_that_was_revoked_does_not_go_on(approved):
    """It could otherwise sum, and its key read shares, for as long as the run takes."""
    approved.agree()
    member = approved.ask(touching=True)._masked.member
    assert member().sites == len(NAMES)
    revoke(approved.centre.home, "west", now=approved.centre.later())
    approved.learn()
    approved.offer()
    for refused in (approved.agree, member):
        with pytest.raises(TrustError, match=r"not in the consortium's roster any more \(west\)"):
            refused()
    approved.start()
    with pytest.raises(TrustError, match="west"):
        approved.ask(touching=False)._masked.member()
    approved.approve()
    with pytest.raises(TrustError, match="the consortium's roster does not have"):
        approved.agree(run="run-2")
    assert approved.agree("east", "north", "south", run="run-2")


# --- one approval, one run -------------------------------------------------------------------


def test_an_approval_is_for_one_run_until_the_staff_decide_again(approved):
    first = approved.agree()
    for _ in range(2):
        for another in (approved.agree, functools.partial(approved.ask, touching=True)):
            with pytest.raises(NotAllowedError, match="was for one run, and another has used it"):
                another(run="run-2")
        with pytest.raises(NotAllowedError, match="was for one run"):
            approved.offer(header=approved.header(run="run-2"))
        with pytest.raises(NotAllowedError, match="was for one run"):
            approved.ask(run="run-2", touching=False)
        assert approved.agree() == first, "the run itself goes on"
        approved.start()
    approved.approve()
    assert approved.agree(run="run-2")
    for run in ("run-1", "run-3"):
        with pytest.raises(NotAllowedError, match="was for one run"):
            approved.agree(run=run)


def test_a_run_without_terms_uses_the_approval_with_its_first_request_for_data(scene):
    plain = load_study(scene.study_file, SECURE[1:])
    scene.policy(require_secure_aggregation=False)
    scene.approve(plain)
    scene.offer(study=plain)
    scene.offer(study=plain, header=scene.header(study=plain, run="run-2"))
    scene.ask(study=plain, touching=True, run="run-2")
    with pytest.raises(NotAllowedError, match="was for one run"):
        scene.ask(study=plain, touching=True)
    scene.ask(study=plain, touching=True, run="run-2")


def test_terms_that_are_refused_have_not_used_the_approval(approved):
    """A run that came to nothing has got nothing: the next one needs no second approval."""
    with pytest.raises(TrustError):
        approved.agree("east", "north", "stranger")
    assert approved.agree(run="run-2") == expected(approved, *NAMES).digest
    with pytest.raises(NotAllowedError, match="was for one run"):
        approved.agree()


class Sites:
    """All sites of the scene, over whose sums a server may ask as it likes."""

    def __init__(self, scene):
        self.scene = scene
        self.study = load_study(scene.study_file, (*SECURE, "training.class-weights=balanced"))
        self.participations, self.answers, self.names = {}, {}, {}
        for name, home in scene.sites.items():
            if name != "north":
                DataSets(home.data_sets).add("clinic", scene.folder / "clinic", "table")
            self.participations[name] = Participation(
                home, progress=lambda *_: None, reconnect=lambda: None, now=scene._now
            )
            self.answers[name] = answerer(home, progress=lambda *_: None, reconnect=lambda: None)
        self.approve()

    def approve(self):
        for home in self.scene.sites.values():
            approvals = Approvals(home.studies)
            study = approvals.keep(study_text(self.study))
            approvals.approve(study.study_id, data_set="clinic")

    def ask_each(self, requests, *, group, deadline):
        for node, (kind, content) in requests.items():
            try:
                answer = self.answers[self.names[node]](kind, content)
            except WardroundError as error:
                yield Answer(node_id=node, content=None, failure=str(error))
            else:
                yield Answer(node_id=node, content=answer)

    def class_counts(self, run, names):
        """What the server learns of these sites in a run of its own, from the start."""
        self.names = dict(enumerate(names, start=1))
        header = Header(study_id=self.study.study_id, run=run, round=0)
        offer = Offer(study=study_text(self.study), roster=self.scene.roster.decode())
        for name in names:
            self.participations[name].offered(header, with_offer(header_record(header), offer))
            self.participations[name].agreed(header, with_terms(header_record(header), names))
        sums = SecureSums(
            study=self.study,
            terms=Terms(study_id=header.study_id, run=run, roster=expected(self.scene, *names)),
            exchange=self,
            observer=Observer(),
        )
        model = GlobalModel(parameters=np.zeros(1, "f4"), fitted=(), class_counts=np.zeros(2))
        request = model_record(header, model)
        return sums.sums(CLASS_COUNTS, request, 0, length=2, invited=self.names)[0]


def test_a_server_cannot_solve_for_one_site_by_runs_over_other_sites(scene):
    """Four runs over three of four sites each: four sums that leave nothing unknown."""
    sites = Sites(scene)
    first, *further = itertools.combinations(NAMES, 3)
    # All four have the same data here.
    cohort = scene.ask(study=sites.study, run="run-0", touching=False)._cohort
    one = np.bincount(cohort.targets[cohort.train], minlength=2)
    np.testing.assert_array_equal(sites.class_counts("run-0", first), 3 * one)
    for number, names in enumerate(further, start=1):
        with pytest.raises(NotAllowedError, match="was for one run"):
            sites.class_counts(f"run-{number}", names)
    # With the staff of each site it is another matter: they decide on each run.
    sites.approve()
    sites.class_counts("run-1", further[0])
    with pytest.raises(NotAllowedError, match="was for one run"):
        sites.class_counts("run-2", further[1])


def test_fewer_sites_than_the_policy_wants_are_refused(approved):
    approved.policy(minimum_cohort=5)
    with pytest.raises(NotAllowedError):
        approved.agree()
    assert not list(approved.home.runs.rglob("terms.json"))


def test_a_threshold_below_the_policy_s_minimum_is_refused(approved):
    """Four sites are there, and three of them would do for a sum."""
    approved.policy(minimum_cohort=4)
    with pytest.raises(
        NotAllowedError, match="sums over at least 4 sites, and a sum of this study may be over 3"
    ):
        approved.agree()
    four = load_study(approved.study_file, (SECURE[0], "aggregation.minimum-sites=4"))
    approved.approve(four)
    assert approved.agree(study=four) == expected(approved, *NAMES, minimum=4).digest


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"study_id": "x", "run": "run-1", "roster": ""}']
)
def test_terms_that_were_damaged_are_not_made_anew(approved, text):
    approved.agree()
    (file,) = approved.home.runs.rglob("terms.json")
    file.write_text(text)
    with pytest.raises(ProtocolError, match="terms of this run is damaged") as raised:
        approved.agree()
    assert str(file.parent) not in reason_of(raised.value, site="north")
    assert file.read_text() == text


def test_terms_of_another_run_are_not_taken(approved):
    """Whoever can write here can move a folder; the terms say what they are of."""
    approved.agree()
    (one,) = approved.home.runs.rglob("terms.json")
    approved.approve()
    approved.agree("east", "north", "west", run="run-2")
    (two,) = set(approved.home.runs.rglob("terms.json")) - {one}
    two.write_bytes(one.read_bytes())
    with pytest.raises(ProtocolError, match="damaged"):
        approved.agree("east", "north", "west", run="run-2")


@pytest.mark.parametrize(
    "run", ["../../escaped", "/tmp/escaped", "..", "", "a/b", "a\0b", "x" * 5000, "\ud800", "ä\n"]
)
def test_a_run_s_name_never_becomes_a_path(approved, run):
    before = set(approved.folder.rglob("*"))
    for asked in (
        approved.agree,
        functools.partial(approved.ask, touching=True),
        functools.partial(approved.ask, touching=False),
    ):
        with pytest.raises(ProtocolError, match="malformed: its run has a name"):
            asked(run=run)
    with pytest.raises(ProtocolError, match="malformed: its run has a name"):
        approved.offer(header=approved.header(run=run))
    assert set(approved.folder.rglob("*")) == before


@pytest.mark.parametrize("number", [-1, 2**31, 2**62])
def test_a_round_that_cannot_be_is_refused(approved, number):
    for touching in (True, False):
        with pytest.raises(ProtocolError, match="its round a number"):
            approved.ask(touching=touching, number=number)


def test_the_folder_of_a_run_is_named_by_no_server(approved):
    approved.agree(run="a-run-of-80-letters" * 4)
    (folder,) = approved.home.runs.iterdir()
    assert len(folder.name) == 32
    assert folder.name.isalnum()


# --- what is asked ---------------------------------------------------------------------------


def test_outside_its_hours_a_site_ends_a_sum_and_begins_none(approved):
    """A sum that is under way when the hour strikes would otherwise be lost."""
    approved.agree()
    approved.approve()  # of a further run
    noon = datetime(2026, 3, 1, 12, 0).astimezone()
    approved.policy(hours="20:00-06:00")
    approved.hour = noon.astimezone(UTC)
    with pytest.raises(NotAllowedError, match="20:00"):
        approved.ask(touching=True)
    with pytest.raises(NotAllowedError, match="20:00"):
        approved.offer()
    with pytest.raises(NotAllowedError, match="20:00"):
        approved.agree(run="run-2")
    assert approved.ask(touching=False) is approved.ask(touching=False)
    approved.hour = noon.replace(hour=22)
    approved.ask(touching=True)


def test_a_study_that_was_refused_ends_nothing_either(approved):
    approved.ask(touching=True)
    Approvals(approved.home.studies).refuse(approved.study.study_id)
    for touching in (True, False):
        with pytest.raises(NotAllowedError, match="refused study"):
            approved.ask(touching=touching)


def test_rules_that_were_tightened_hold_at_any_hour(approved):
    approved.ask(touching=True)
    approved.policy(models=["cnn"])
    for touching in (True, False):
        with pytest.raises(NotAllowedError, match="cnn"):
            approved.ask(touching=touching)


def test_the_cohort_stays_in_memory_until_something_about_it_changes(approved):
    first = approved.ask(touching=True)
    assert approved.ask(touching=True) is first
    approved.home.policy.write_text("[privacy]\nepsilon = 9.0\n")
    second = approved.ask(touching=True)
    assert second is not first
    assert approved.ask(touching=True) is second
    folder = approved.folder / "ward"
    folder.mkdir()
    write_hospital(folder / "north.csv", seed=5)
    DataSets(approved.home.data_sets).add("ward", folder, "table")
    Approvals(approved.home.studies).approve(approved.study.study_id, data_set="ward")
    assert approved.ask(touching=True) is not second


def test_what_may_be_read_of_the_data_is_what_the_policy_says_now(approved, monkeypatch):
    said = []

    def noted(*arguments, rules, **settings):
        said.append(rules.allow_burned_in_annotation)
        return cohort_for(*arguments, rules=rules, **settings)

    monkeypatch.setattr(participation, "cohort_for", noted)
    approved.ask(touching=True)
    approved.policy(allow_burned_in_annotation=True)
    approved.ask(touching=True)
    assert said == [False, True]


def test_a_data_set_that_was_withdrawn_or_moved_is_not_read_from_memory(approved):
    first = approved.ask(touching=True)
    sets = DataSets(approved.home.data_sets)
    approved.home.data_sets.unlink()
    for touching in (True, False):
        with pytest.raises(DataError, match="clinic"):
            approved.ask(touching=touching)
    folder = approved.folder / "ward"
    folder.mkdir()
    write_hospital(folder / "north.csv", seed=5)
    sets.add("clinic", folder, "table")
    assert approved.ask(touching=True) is not first


def test_a_policy_that_cannot_be_read_allows_nothing(approved):
    approved.home.policy.write_text("[rules")
    with pytest.raises(PolicyError, match="TOML") as raised:
        approved.ask(touching=False)
    assert reason_of(raised.value, site="north") == "PolicyError"


def test_data_that_is_gone_is_a_refusal_without_a_path(approved):
    (approved.folder / "clinic" / "north.csv").unlink()
    with pytest.raises(DataError) as raised:
        approved.ask(touching=True)
    assert str(approved.folder) not in reason_of(raised.value, site="north")


def test_without_having_joined_there_is_nothing_to_take_part_in(tmp_path, scene):
    with pytest.raises(EnrolmentError, match="has not joined"):
        Participation(scene.centre.site("new"), progress=lambda *_: None, reconnect=lambda: None)


# --- over the app ----------------------------------------------------------------------------


@pytest.fixture
def answer(approved):
    return answerer(approved.home, progress=lambda *_: None, reconnect=lambda: None)


def test_a_site_greets_under_its_own_name(approved, answer):
    offer = Offer(study=study_text(approved.study), roster=approved.roster.decode())
    content = with_offer(header_record(approved.header()), offer)
    greeting = read_greeting(answer(HELLO, content))
    assert greeting.site == "north"


@pytest.mark.parametrize(
    "kind", [TRAIN, UNMASK, "query.keys", "query.confirm", "query.class_counts"]
)
def test_a_secure_run_whose_sites_were_not_agreed_on_gets_nothing(approved, answer, kind):
    with pytest.raises((NotAllowedError, ProtocolError)):
        answer(kind, header_record(approved.header(number=1)))
    assert approved.events()[-1] == "refused"


def test_an_answer_out_of_the_store_is_told_apart_from_work(scene):
    scene.policy(require_secure_aggregation=False)
    plain = load_study(scene.study_file, (SECURE[1], "training.class-weights=balanced"))
    scene.approve(plain)
    scene.offer(study=plain)
    header = scene.header(study=plain)
    model = GlobalModel(parameters=np.zeros(1, "f4"), fitted=(), class_counts=np.zeros(2))
    for _ in range(2):  # and after a restart
        asked = answerer(scene.home, progress=lambda *_: None, reconnect=lambda: None)
        for _ in range(2):
            asked(CLASS_COUNTS, model_record(header, model))
    assert scene.events()[-4:] == ["answered", "repeated", "repeated", "repeated"]


def test_a_request_of_a_kind_that_nobody_knows_is_refused(approved, answer):
    with pytest.raises(ValueError, match="everything"):
        answer("query.everything", header_record(approved.header()))


def test_a_refusal_is_a_line_in_the_log_whatever_the_run_is_called(approved, answer):
    for run in ("../../x", "x" * 5000, "a\nb"):
        header = Header(study_id="ab" * 32, run=run, round=0)
        with pytest.raises((NotAllowedError, AuditError, ProtocolError)):
            answer(TRAIN, header_record(header))
    assert set(approved.events()) <= {"roster", "refused"}
