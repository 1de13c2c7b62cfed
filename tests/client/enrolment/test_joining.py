"""Attacks on joining: a swapped answer, another's line, a roster that is old, forged or cut off."""

import datetime as dt
import json
import shutil

import pytest
from consortia import DAY, NOW, Consortium, edited, everything

from wardround_client.enrolment.home import SiteHome
from wardround_client.enrolment.joining import accept, membership, take_roster, write_request
from wardround_client.enrolment.rotation import rotate
from wardround_server.enrolment.admission import revoke
from wardround_server.enrolment.certificates import new_authority
from wardround_server.enrolment.renewal import finish_rotation, rotate_ca
from wardround_server.enrolment.rosters import current_roster
from wardround_shared.consortium import files
from wardround_shared.consortium.authorities import bundle
from wardround_shared.consortium.enrolment import Admission, JoinRequest
from wardround_shared.errors import EnrolmentError, TrustError


@pytest.fixture
def centre(tmp_path):
    return Consortium(tmp_path)


@pytest.fixture
def site(centre):
    return centre.site("hospital-a")


def answer_refused(site, answer, fingerprint, match, error=TrustError, *, now=NOW):
    """The answer is refused, and nothing of the home is another than before."""
    before = everything(site.folder)
    with pytest.raises(error, match=match) as raised:
        accept(site, answer, fingerprint=fingerprint, now=now)
    assert type(raised.value) is error
    assert everything(site.folder) == before


def roster_refused(site, data, match, error=TrustError, now=NOW):
    """The same for a roster."""
    before = everything(site.folder)
    with pytest.raises(error, match=match) as raised:
        take_roster(site, data, now=now)
    assert type(raised.value) is error
    assert everything(site.folder) == before


def test_a_request_has_the_site_s_keys_and_no_secret(centre, site):
    facts = write_request(site, centre.folder / "a.wardround-request", now=NOW)
    data = facts.file.read_bytes()
    request = JoinRequest.parse(data)
    request.verify()
    assert request.fingerprint == facts.fingerprint
    assert (request.site, request.previous) == ("hospital-a", None)
    assert request.node_key == site.own_keys().node_line
    assert request.identity == site.own_keys().identity_hex
    for secret in (site.keys.identity.read_bytes().hex(), "PRIVATE"):
        assert secret not in data.decode()


def test_an_accepted_answer_is_all_that_a_site_needs(centre, site):
    assert not site.joined
    with pytest.raises(EnrolmentError, match="has not joined"):
        membership(site)
    admitted = centre.join(site)
    held = membership(SiteHome.open(site.folder))
    assert (held.site, held.server) == ("hospital-a", admitted.address)
    assert held.roster == current_roster(centre.home)
    assert held.consortium == centre.home.consortium()
    assert site.authorities.read_text() == held.roster.authorities
    assert site.settings().server == admitted.address
    for path in (site.folder / "server").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_fingerprint_may_be_typed_as_it_was_heard(centre, site):
    admitted = centre.admit(centre.request(site))
    spoken = admitted.fingerprint.upper().replace(" ", "-") + "\n"
    accept(site, admitted.answer, fingerprint=spoken, now=NOW)


def test_another_fingerprint_joins_nothing(centre, site):
    admitted = centre.admit(centre.request(site))
    wrong = admitted.fingerprint.translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))
    answer_refused(site, admitted.answer, wrong, "not the one that was read to you")
    short = admitted.fingerprint[:-5]
    answer_refused(site, admitted.answer, short, "10 groups of 4", EnrolmentError)
    assert not site.joined


def test_a_whole_consortium_in_between_is_noticed(tmp_path, centre, site):
    """It has changed request and answer on their way; only the voice is out of its reach."""
    evil = Consortium(tmp_path / "evil")
    file = centre.request(site)
    false = evil.admit(file)
    true = centre.admit(file)
    answer_refused(site, false.answer, true.fingerprint, "not the one that was read to you")


def test_an_authority_or_address_that_was_swapped_is_noticed(centre, site):
    admitted = centre.admit(centre.request(site))
    content = json.loads(admitted.answer.read_bytes())
    content["roster"]["authorities"] = bundle([new_authority(now=NOW).certificate])
    swapped = centre.folder / "swapped.wardround-answer"
    swapped.write_text(json.dumps(content))
    answer_refused(site, swapped, admitted.fingerprint, "not the one that was read")
    # Even a fingerprint that fits does not help without the consortium's signature.
    fitting = Admission.parse(swapped.read_bytes()).fingerprint
    answer_refused(site, swapped, fitting, "not signed by the consortium's key")
    swapped.write_bytes(edited(admitted.answer.read_bytes(), address="evil.example.org:9092"))
    answer_refused(site, swapped, admitted.fingerprint, "not the one that was read")


def test_an_answer_that_was_cut_off_anywhere_is_refused(centre, site):
    admitted = centre.admit(centre.request(site))
    data = admitted.answer.read_bytes()
    before = everything(site.folder)
    for length in range(len(data)):
        admitted.answer.write_bytes(data[:length])
        with pytest.raises(EnrolmentError, match="no whole answer"):
            accept(site, admitted.answer, fingerprint=admitted.fingerprint, now=NOW)
    assert everything(site.folder) == before


def test_an_answer_for_another_site_is_refused(centre, site):
    other = centre.admit(centre.request(centre.site("hospital-b")))
    answer_refused(site, other.answer, other.fingerprint, "not in version 2", EnrolmentError)


def test_an_answer_with_another_s_keys_in_this_site_s_name_is_refused(centre, site, tmp_path):
    namesake = SiteHome.init(tmp_path / "namesake", "hospital-a")
    admitted = centre.admit(centre.request(namesake))
    answer_refused(site, admitted.answer, admitted.fingerprint, "other keys for hospital-a")


@pytest.mark.parametrize("days", [-2, 3653])
def test_an_answer_out_of_its_time_is_refused(centre, site, days):
    admitted = centre.admit(centre.request(site))
    then = NOW + dt.timedelta(days=days)
    answer_refused(site, admitted.answer, admitted.fingerprint, "clock", EnrolmentError, now=then)


def test_a_site_belongs_to_one_consortium(tmp_path, centre, site):
    other = Consortium(tmp_path / "other")
    false = other.admit(centre.request(site))
    centre.join(site)
    answer_refused(site, false.answer, false.fingerprint, "joined another consortium")
    with pytest.raises(EnrolmentError, match="keys rotate"):
        write_request(site, tmp_path / "again", now=NOW)


def test_an_older_answer_is_refused_once_a_newer_roster_is_known(centre, site):
    admitted = centre.join(site)
    centre.join(centre.site("hospital-b"))
    take_roster(site, centre.roster(), now=NOW)
    answer_refused(site, admitted.answer, admitted.fingerprint, "older than version 3")


def test_joining_is_whole_or_nothing_after_a_crash(centre, site, monkeypatch):
    admitted = centre.admit(centre.request(site))
    place = files._place

    def crash_at_the_second(made, file, *, kept):
        if made.name == "1":
            raise KeyboardInterrupt
        place(made, file, kept=kept)

    with monkeypatch.context() as context:
        context.setattr(files, "_place", crash_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            accept(site, admitted.answer, fingerprint=admitted.fingerprint, now=NOW)
    assert membership(SiteHome.open(site.folder)).server == admitted.address


# --- later versions -------------------------------------------------------------------------------


def test_a_newer_roster_is_taken_and_says_what_is_new(centre, site):
    centre.join(site)
    for name in ("hospital-b", "hospital-c"):
        centre.join(centre.site(name))
    news = take_roster(site, centre.roster(), now=NOW)
    assert (news.version, news.changed) == (4, True)
    assert news.added == ("hospital-b", "hospital-c")
    assert (news.removed, news.rekeyed, news.own_keys, news.authorities) == ((), (), False, False)
    revoke(centre.home, "hospital-b", now=centre.later())
    assert take_roster(site, centre.roster(), now=NOW).removed == ("hospital-b",)
    assert membership(site).roster == current_roster(centre.home)
    assert take_roster(site, centre.roster(), now=NOW).changed is False


def test_forged_edited_old_and_cut_rosters_are_refused(tmp_path, centre, site):
    centre.join(site)
    old = centre.roster()
    centre.join(centre.site("hospital-b"))
    data = centre.roster()
    take_roster(site, data, now=NOW)
    roster_refused(site, old, "Version 2 of the roster is older than version 3")
    roster_refused(site, edited(data, version=4), "not signed")
    roster_refused(site, edited(data, version=4, lines=json.loads(old)["lines"]), "not signed")
    roster_refused(site, Consortium(tmp_path / "evil").roster(), "not signed")
    for length in range(len(data)):
        with pytest.raises(EnrolmentError, match="no whole roster"):
            take_roster(site, data[:length], now=NOW)
    assert membership(site).roster.version == 3


def test_two_rosters_of_one_version_are_refused(centre, site):
    """A centre that was set back to a backup, or one that tells each site another story."""
    centre.join(site)
    backup = everything(centre.home.folder)
    centre.join(centre.site("hospital-b"))
    take_roster(site, centre.roster(), now=NOW)
    for name, data in backup.items():
        (centre.home.folder / name).write_bytes(data)
    centre.home.roster_version(3).unlink()
    centre.join(centre.site("hospital-c"))
    roster_refused(site, centre.roster(), "two rosters of version 3")


def test_a_revoked_site_is_told_so_and_keeps_what_it_has(centre, site):
    centre.join(site)
    revoke(centre.home, "hospital-a", now=centre.later())
    roster_refused(site, centre.roster(), "this site was revoked", EnrolmentError)
    assert membership(site).roster.version == 2


def test_a_site_whose_keys_were_changed_by_others_stops(centre, site, tmp_path):
    centre.join(site)
    revoke(centre.home, "hospital-a", now=centre.later())
    centre.join(SiteHome.init(tmp_path / "namesake", "hospital-a"))
    roster_refused(site, centre.roster(), "somebody else was admitted in its name")


def test_a_new_authority_comes_with_the_roster(centre, site):
    centre.join(site)
    old = site.authorities.read_text()
    rotate_ca(centre.home, now=centre.later())
    assert take_roster(site, centre.roster(), now=NOW).authorities
    both = site.authorities.read_text()
    assert both.startswith(old)
    assert both == centre.home.authorities.read_text()
    finish_rotation(centre.home, now=centre.later(), at_once=True)
    take_roster(site, centre.roster(), now=NOW)
    assert site.authorities.read_text() == both.removeprefix(old)


@pytest.mark.parametrize("name", ["roster.json", "consortium.pem"])
def test_what_was_edited_on_the_site_s_disk_is_refused(tmp_path, centre, site, name):
    centre.join(site)
    file = site.folder / "server" / name
    evil = Consortium(tmp_path / "evil")
    evil.join(SiteHome.init(tmp_path / "other", "hospital-z"))
    kept = file.read_bytes()
    other = evil.home.roster if name == "roster.json" else evil.home.consortium_public
    for data in (other.read_bytes(), kept[: len(kept) // 2], b""):
        file.write_bytes(data)
        with pytest.raises(EnrolmentError):
            membership(site)
        with pytest.raises(EnrolmentError):
            take_roster(site, centre.roster(), now=NOW)


# --- new keys -------------------------------------------------------------------------------------


def rotated(centre, site, **changes):
    facts = rotate(site, centre.folder / "new.wardround-request", now=centre.later(), **changes)
    return centre.admit(facts.file)


def test_new_keys_come_into_force_with_the_roster_and_not_before(centre, site):
    centre.join(site)
    other = centre.site("hospital-b")
    centre.join(other)
    old = site.own_keys()
    rotated(centre, site)
    assert site.own_keys().identity_hex == old.identity_hex, "the old ones still connect"
    membership(site)

    news = take_roster(site, centre.roster(), now=NOW)
    assert (news.own_keys, news.rekeyed) == (True, ("hospital-a",))
    new = site.own_keys()
    assert new.identity_hex != old.identity_hex
    assert new.node_line != old.node_line
    assert new.are_those_of(membership(site).roster.line("hospital-a"))
    assert site.keys.node_public.read_text() == f"{new.node_line}\n"
    assert not site.next_keys.exist()
    assert take_roster(other, centre.roster(), now=NOW).rekeyed == ("hospital-a",)


def test_a_run_goes_on_with_the_identity_that_it_began_with(centre, site):
    centre.join(site)
    first = site.own_keys()
    rotated(centre, site)
    take_roster(site, centre.roster(), now=NOW)
    assert site.identity_file(first.identity_hex) == site.retired_keys.identity
    assert site.identity_file(site.own_keys().identity_hex) == site.keys.identity
    centre.later(DAY)
    rotated(centre, site)
    take_roster(site, centre.roster(), now=NOW)
    with pytest.raises(EnrolmentError, match="replaced more than once"):
        site.identity_file(first.identity_hex)


def test_asking_twice_asks_for_the_same_keys(centre, site):
    """The first request was lost, or was admitted meanwhile."""
    centre.join(site)
    file = centre.folder / "new.wardround-request"
    first = rotate(site, file, now=centre.later())
    second = rotate(site, file, now=centre.later())
    assert first.fingerprint == second.fingerprint


def test_a_key_replaced_by_a_crash_is_still_one_pair(centre, site, monkeypatch):
    centre.join(site)
    rotated(centre, site)
    place = files._place

    def crash_amid_the_keys(made, file, *, kept):
        if file == site.keys.node:
            raise KeyboardInterrupt
        place(made, file, kept=kept)

    with monkeypatch.context() as context:
        context.setattr(files, "_place", crash_amid_the_keys)
        with pytest.raises(KeyboardInterrupt):
            take_roster(site, centre.roster(), now=NOW)
    membership(SiteHome.open(site.folder))
    assert take_roster(site, centre.roster(), now=NOW).changed is False


def test_stolen_keys_are_replaced_by_revoking_and_admitting_afresh(centre, site):
    admitted = centre.join(site)
    revoke(centre.home, "hospital-a", now=centre.later())
    again = rotated(centre, site, afresh=True)
    assert again.fingerprint == admitted.fingerprint, "the centre is the same"
    accept(site, again.answer, fingerprint=again.fingerprint, now=NOW)
    assert membership(site).roster.version == 4
    assert not site.next_keys.exist()


def test_keys_made_before_a_theft_are_not_taken_after_it(centre, site):
    centre.join(site)
    file = centre.folder / "new.wardround-request"
    before = rotate(site, file, now=centre.later())
    stolen = JoinRequest.parse(file.read_bytes())
    after = rotate(site, file, now=centre.later(), afresh=True)
    fresh = JoinRequest.parse(file.read_bytes())
    assert before.fingerprint != after.fingerprint
    assert not {stolen.identity, stolen.node_key} & {fresh.identity, fresh.node_key}


def test_a_site_that_leaves_keeps_its_keys_and_ledger(tmp_path, centre, site):
    """As docs/enrolment.md says: the folder `server` is removed, and nothing else."""
    centre.join(site)
    kept = everything(site.folder)
    shutil.rmtree(site.folder / "server")
    other = Consortium(tmp_path / "other", address="10.0.0.1:9092")
    other.join(SiteHome.open(site.folder))
    assert membership(site).server == "10.0.0.1:9092"
    left = everything(site.folder)
    assert {name for name in kept if kept[name] != left[name]} == {
        "site.toml",
        "server/ca.pem",
        "server/consortium.pem",
        "server/roster.json",
    }


def test_new_keys_that_were_not_admitted_can_be_forgotten(centre, site):
    from wardround_client.enrolment.rotation import abandon

    centre.join(site)
    first = rotate(site, centre.folder / "x", now=NOW)
    abandon(site)
    assert not site.next_keys.exist()
    membership(site)
    assert rotate(site, centre.folder / "x", now=NOW).fingerprint != first.fingerprint
