"""Who gets into the roster: attacks on admission, revocation and replaced keys."""

import datetime as dt
import json

import pytest
from consortia import NOW, Consortium, edited, everything
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wardround_client.enrolment.home import SiteHome
from wardround_client.enrolment.joining import write_request
from wardround_client.enrolment.rotation import rotate
from wardround_server.enrolment.admission import Step, admit, read_request, revoke
from wardround_server.enrolment.heard import note_heard
from wardround_server.enrolment.rosters import (
    OVERLAP,
    current_roster,
    history,
    node_keys,
    take_back,
)
from wardround_shared.consortium.documents import read_bytes
from wardround_shared.consortium.enrolment import Admission, JoinRequest
from wardround_shared.consortium.fields import iso_time, node_key_pem
from wardround_shared.errors import EnrolmentError, ProtocolError, TrustError


@pytest.fixture
def centre(tmp_path):
    return Consortium(tmp_path)


def forged(centre, name="hospital-b", *, identity=None, node=None, previous=None, **changes):
    """A request that is in order by itself, with keys of the forger's choice."""
    request = JoinRequest.sign(
        site=name,
        identity=identity or Ed25519PrivateKey.generate(),
        node=node or ec.generate_private_key(ec.SECP384R1()),
        previous=previous,
        **({"software": "0.1.0", "protocol": 1, "made": iso_time(centre.later())} | changes),
    )
    file = centre.folder / f"forged-{name}.wardround-request"
    file.write_bytes(request.to_bytes())
    return file


def refused(centre, file, match, error=TrustError):
    """The request is refused, and nothing of the home is another than before."""
    before = everything(centre.home.folder)
    with pytest.raises(error, match=match) as raised:
        read_request(centre.home, file)
    assert type(raised.value) is error
    assert everything(centre.home.folder) == before


def test_a_site_is_one_line_and_one_version_and_touches_nobody_else(centre):
    first = centre.site("hospital-a")
    admitted = centre.join(first)
    assert (admitted.site, admitted.version) == ("hospital-a", 2)
    before = current_roster(centre.home)
    file = centre.request(centre.site("hospital-b"))
    candidate = read_request(centre.home, file)
    request = JoinRequest.parse(file.read_bytes())
    assert (candidate.site, candidate.step) == ("hospital-b", Step.NEW)
    assert candidate.fingerprint == request.fingerprint
    assert current_roster(centre.home) == before, "looking changes nothing"

    admitted = centre.admit(file)
    after = current_roster(centre.home)
    assert (after.version, admitted.version) == (3, 3)
    assert after.line("hospital-a") == before.line("hospital-a")
    line = after.line("hospital-b")
    assert line is not None
    assert (line.identity, line.node_key) == (request.identity, request.node_key)
    assert line.admitted == NOW.date().isoformat()
    answer = Admission.parse(read_bytes(admitted.answer))
    answer.verify()
    assert answer.roster == after
    assert answer.fingerprint == admitted.fingerprint
    assert [one.version for one in history(centre.home)] == [1, 2, 3]


def test_admitting_twice_writes_the_answer_again_and_nothing_else(centre):
    """The answer was lost, or the machine stopped before it was written."""
    file = centre.request(centre.site("hospital-a"))
    admitted = centre.admit(file)
    before = everything(centre.home.folder)
    admitted.answer.unlink()
    assert read_request(centre.home, file).step is Step.AGAIN
    assert centre.admit(file) == admitted
    assert everything(centre.home.folder) == before
    assert admitted.answer.exists()


def test_a_forged_or_edited_request_is_refused(centre):
    file = centre.request(centre.site("hospital-a"))
    data = file.read_bytes()
    file.write_bytes(edited(data, site="hospital-z"))
    refused(centre, file, "not signed by its identity key")
    file.write_bytes(data[:-1])
    refused(centre, file, "no whole join request", EnrolmentError)
    file.unlink()
    refused(centre, file, "cannot be read", EnrolmentError)


def test_a_name_of_the_roster_cannot_be_taken_over(centre):
    centre.join(centre.site("hospital-a"))
    refused(centre, forged(centre, "hospital-a"), "in the roster with other keys")
    refused(centre, forged(centre, "Hospital-A"), "capitals only", EnrolmentError)


def test_new_keys_have_to_be_signed_by_the_ones_in_the_roster(centre):
    centre.join(centre.site("hospital-a"))
    anybody = Ed25519PrivateKey.generate()
    refused(centre, forged(centre, "hospital-a", previous=anybody), "not signed by the identity in")
    file = forged(centre, "hospital-c", previous=anybody)
    refused(centre, file, "not in the roster, so there are no keys", EnrolmentError)


def test_another_s_key_cannot_be_asked_for_even_by_its_holder(centre):
    """Two sites with one key would be one site that is counted twice."""
    site = centre.site("hospital-a")
    centre.join(site)
    keys = site.own_keys()
    refused(centre, forged(centre, identity=keys.identity), "is that of hospital-a in version 2")
    refused(centre, forged(centre, node=keys.node), "is that of hospital-a in version 2")
    revoke(centre.home, "hospital-a", now=centre.later())
    refused(centre, forged(centre, node=keys.node), "is that of hospital-a in version 2")


def test_a_candidate_is_judged_again_when_it_is_admitted(centre):
    """Two people at the centre, one name: who comes second is refused."""
    one = read_request(centre.home, forged(centre, "hospital-a"))
    other = read_request(centre.home, forged(centre, "hospital-a"))
    admit(centre.home, one, answer=centre.folder / "one", now=centre.later())
    before = everything(centre.home.folder)
    with pytest.raises(TrustError, match="in the roster with other keys"):
        admit(centre.home, other, answer=centre.folder / "other", now=centre.later())
    assert everything(centre.home.folder) == before
    assert not (centre.folder / "other").exists()


def test_another_protocol_is_refused_in_words(centre):
    refused(centre, forged(centre, protocol=99), "speaks version 99 of the protocol", ProtocolError)


def test_nobody_is_admitted_or_revoked_without_the_consortium_s_key(centre, tmp_path):
    centre.join(centre.site("hospital-a"))
    candidate = read_request(centre.home, centre.request(centre.site("hospital-b")))
    other = Consortium(tmp_path / "other").home.consortium_private
    away = tmp_path / "away.pem"
    centre.home.consortium_private.rename(away)
    before = everything(centre.home.folder)
    for error, key in ((EnrolmentError, None), (TrustError, other)):
        with pytest.raises(error):
            admit(
                centre.home,
                candidate,
                answer=tmp_path / "answer",
                now=centre.later(),
                consortium_key=key,
            )
        with pytest.raises(error):
            revoke(centre.home, "hospital-a", now=centre.later(), consortium_key=key)
    assert everything(centre.home.folder) == before
    revoke(centre.home, "hospital-a", now=centre.later(), consortium_key=away)


def test_a_clock_that_was_set_back_signs_nothing(centre):
    centre.join(centre.site("hospital-a"))
    with pytest.raises(EnrolmentError, match="set the clock"):
        revoke(centre.home, "hospital-a", now=NOW - dt.timedelta(days=1))


# --- revocation -----------------------------------------------------------------------------------


def test_a_revoked_site_is_gone_and_nobody_else(centre):
    for name in ("hospital-a", "hospital-b"):
        centre.join(centre.site(name))
    kept = current_roster(centre.home).line("hospital-b")
    revoked = revoke(centre.home, "hospital-a", now=centre.later())
    after = current_roster(centre.home)
    assert revoked.line.site == "hospital-a"
    assert revoked.version == after.version == 4
    assert after.lines == (kept,)
    assert list(node_keys(centre.home, now=centre.now).values()) == ["hospital-b"]
    with pytest.raises(EnrolmentError, match="not in the roster of version 4, which has h"):
        revoke(centre.home, "hospital-a", now=centre.later())


def test_an_old_request_does_not_bring_a_revoked_site_back(centre):
    site = centre.site("hospital-a")
    file = centre.request(site)
    centre.admit(file)
    revoke(centre.home, "hospital-a", now=centre.later())
    refused(centre, file, "was revoked at")
    again = write_request(site, file, now=centre.later())
    assert read_request(centre.home, again.file).step is Step.NEW
    centre.admit(file)
    assert current_roster(centre.home).line("hospital-a") is not None


# --- replaced keys --------------------------------------------------------------------------------


def rotated(centre, site: SiteHome):
    file = centre.folder / "rotation.wardround-request"
    rotate(site, file, now=centre.later())
    return file


def test_replaced_keys_are_one_line_replaced_with_an_overlap(centre):
    site = centre.site("hospital-a")
    centre.join(site)
    centre.join(centre.site("hospital-b"))
    old, kept = site.own_keys(), current_roster(centre.home).line("hospital-b")
    file = rotated(centre, site)
    assert read_request(centre.home, file).step is Step.NEW_KEYS
    centre.admit(file)
    line = current_roster(centre.home).line("hospital-a")
    assert line.identity != old.identity_hex
    assert current_roster(centre.home).line("hospital-b") == kept

    both = node_keys(centre.home, now=centre.now)
    assert both[node_key_pem(old.node_line)] == both[node_key_pem(line.node_key)] == "hospital-a"
    assert len(both) == 3
    # The news come over that connection: it is not closed before they are known to be there.
    later = centre.now + OVERLAP
    version = current_roster(centre.home).version
    note_heard(centre.home, {"hospital-a": version - 1})
    assert node_keys(centre.home, now=later) == both
    note_heard(centre.home, {"hospital-a": version})
    assert node_keys(centre.home, now=centre.now) == both
    alone = node_keys(centre.home, now=later)
    assert node_key_pem(old.node_line) not in alone
    assert len(alone) == 2


def test_replaced_keys_of_a_site_that_was_revoked_open_nothing(centre):
    site = centre.site("hospital-a")
    centre.join(site)
    centre.admit(rotated(centre, site))
    revoke(centre.home, "hospital-a", now=centre.later())
    assert node_keys(centre.home, now=centre.now) == {}
    fresh = forged(centre, "hospital-a")
    centre.admit(fresh)
    line = current_roster(centre.home).line("hospital-a")
    assert node_keys(centre.home, now=centre.now) == {node_key_pem(line.node_key): "hospital-a"}


def test_keys_that_were_replaced_do_not_come_back(centre):
    """Whoever has stolen them could ask for them with the keys of today, were he to have these."""
    site = centre.site("hospital-a")
    centre.join(site)
    old = site.own_keys()
    centre.admit(rotated(centre, site))
    from wardround_client.enrolment.keys import SiteKeys

    new = SiteKeys.read(site.next_keys)
    back = forged(centre, "hospital-a", identity=old.identity, node=old.node, previous=new.identity)
    refused(centre, back, "it had in version 2")
    by_the_old = forged(centre, "hospital-a", previous=old.identity)
    refused(centre, by_the_old, "not signed by the identity in the roster")


# --- versions on disk -----------------------------------------------------------------------------


def test_an_edited_roster_on_disk_is_refused(centre):
    centre.join(centre.site("hospital-a"))
    data = centre.home.roster.read_bytes()
    for damaged in (edited(data, version=9), edited(data, lines=[]), data[:-1]):
        centre.home.roster.write_bytes(damaged)
        with pytest.raises(EnrolmentError):
            current_roster(centre.home)
        with pytest.raises(EnrolmentError):
            node_keys(centre.home, now=NOW)
    centre.home.roster.write_bytes(data)
    centre.home.roster_version(1).write_bytes(data)
    with pytest.raises(TrustError, match=r"1\.json: this is version 2, moved here"):
        history(centre.home)


def test_a_restored_centre_takes_the_newest_roster_back_from_a_site(centre):
    site = centre.site("hospital-a")
    centre.join(site)
    backup = everything(centre.home.folder)
    centre.join(centre.site("hospital-b"))
    newest = centre.roster()
    for name, data in backup.items():
        (centre.home.folder / name).write_bytes(data)
    centre.home.roster_version(3).unlink()
    assert current_roster(centre.home).version == 2

    assert take_back(centre.home, newest).version == 3
    assert centre.roster() == newest
    revoke(centre.home, "hospital-a", now=centre.later())
    assert [one.version for one in history(centre.home)] == [1, 2, 3, 4]
    with pytest.raises(TrustError, match="older"):
        take_back(centre.home, newest)
    with pytest.raises(TrustError, match="not signed"):
        take_back(centre.home, json.dumps(json.loads(newest) | {"version": 7}).encode())
