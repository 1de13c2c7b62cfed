"""Attacks on the two files of enrolment: another's key, an edited name, a swapped authority."""

import json

import pytest
from consortia import NOW, edited
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wardround_server.enrolment.certificates import new_authority
from wardround_shared.consortium.authorities import bundle
from wardround_shared.consortium.enrolment import Admission, JoinRequest
from wardround_shared.consortium.fields import iso_time, node_key_line
from wardround_shared.consortium.roster_file import SignedRoster
from wardround_shared.consortium.signatures import public_hex, sign_by_node
from wardround_shared.errors import EnrolmentError, TrustError

MINE, THEIRS = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
ANYBODY = Ed25519PrivateKey.generate()
MY_NODE = ec.generate_private_key(ec.SECP384R1())
THEIR_NODE = ec.generate_private_key(ec.SECP384R1())


def request(**changes) -> JoinRequest:
    usual = {
        "site": "hospital-a",
        "identity": MINE,
        "node": MY_NODE,
        "software": "0.1.0",
        "protocol": 1,
        "made": iso_time(NOW),
    }
    return JoinRequest.sign(**(usual | changes))


REQUEST = request()
ROTATION = request(previous=THEIRS)
CONSORTIUM = Ed25519PrivateKey.generate()


def admission(key=CONSORTIUM, *, authorities=None, address="fl.example.org:9092") -> Admission:
    authorities = authorities or bundle([new_authority(now=NOW).certificate])
    roster = SignedRoster.sign(
        key, version=1, issued=iso_time(NOW), authorities=authorities, lines=()
    )
    return Admission(address=address, consortium=public_hex(key), roster=roster)


def test_what_was_signed_is_read_and_verified():
    for made in (REQUEST, ROTATION):
        read = JoinRequest.parse(made.to_bytes())
        read.verify()
        assert read == made
        assert read.fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("changes", "whose"),
    [
        ({"site": "hospital-b"}, "identity key"),
        ({"software": "9"}, "identity key"),
        ({"protocol": 2}, "identity key"),
        ({"made": "2030-01-01T00:00:00Z"}, "identity key"),
        ({"identity": public_hex(ANYBODY)}, "identity key"),
        ({"node_key": node_key_line(THEIR_NODE.public_key())}, "identity key"),
        ({"signature": "00" * 64}, "identity key"),
        ({"node_signature": "00" * 64}, "node key"),
        ({"node_signature": sign_by_node(MY_NODE, b"something else")}, "node key"),
        ({"previous_signature": "00" * 64}, "previous identity key"),
    ],
)
def test_an_edited_request_is_refused(changes, whose):
    data = edited(ROTATION.to_bytes(), **changes)
    with pytest.raises(TrustError, match=f"not signed by its {whose}"):
        JoinRequest.parse(data).verify()


def test_nobody_can_ask_with_the_public_key_of_another():
    """Public keys stand in the roster for all to see."""
    with_their_identity = request().model_copy(update={"identity": public_hex(THEIRS)})
    with_their_identity = with_their_identity.model_copy(
        update={"signature": MINE.sign(with_their_identity._message()).hex()}
    )
    with pytest.raises(TrustError, match="its identity key"):
        with_their_identity.verify()
    with_their_node = request().model_copy(
        update={"node_key": node_key_line(THEIR_NODE.public_key())}
    )
    with_their_node = with_their_node.model_copy(
        update={"signature": MINE.sign(with_their_node._message()).hex()}
    )
    with pytest.raises(TrustError, match="its node key"):
        with_their_node.verify()


@pytest.mark.parametrize(
    "data",
    [
        edited(ROTATION.to_bytes(), previous_signature=None),
        edited(ROTATION.to_bytes(), previous=None),
        edited(REQUEST.to_bytes(), previous=public_hex(THEIRS)),
        edited(REQUEST.to_bytes(), admin=True),
        edited(REQUEST.to_bytes(), site="a b"),
        edited(REQUEST.to_bytes(), software="1.0\u202e"),
        edited(REQUEST.to_bytes(), software="x" * 65),
        edited(ROTATION.to_bytes(), previous=public_hex(MINE)),
        admission().to_bytes(),
    ],
)
def test_a_malformed_request_is_refused(data):
    with pytest.raises(EnrolmentError, match=r"join request: .*\.$"):
        JoinRequest.parse(data)


def test_files_that_were_cut_off_anywhere_are_refused():
    for kind, data in ((JoinRequest, ROTATION.to_bytes()), (Admission, admission().to_bytes())):
        for length in range(len(data)):
            with pytest.raises(EnrolmentError, match="no whole"):
                kind.parse(data[:length])


def test_the_request_s_fingerprint_stands_for_name_and_all_keys():
    others = [
        REQUEST,
        ROTATION,
        request(site="hospital-b"),
        request(identity=THEIRS),
        request(node=THEIR_NODE),
        request(previous=Ed25519PrivateKey.generate()),
    ]
    assert len({one.fingerprint for one in others}) == len(others)
    assert request(made="2030-01-01T00:00:00Z").fingerprint == REQUEST.fingerprint


def test_the_answer_s_fingerprint_stands_for_key_authority_and_address():
    authorities = bundle([new_authority(now=NOW).certificate])
    true = admission(authorities=authorities)
    assert admission(authorities=authorities).fingerprint == true.fingerprint
    others = [
        true,
        admission(Ed25519PrivateKey.generate(), authorities=authorities),
        admission(),
        admission(authorities=authorities, address="fl.example.org:9093"),
        admission(authorities=authorities, address="fl.example.com:9092"),
    ]
    assert len({one.fingerprint for one in others}) == len(others)


def test_an_authority_that_was_swapped_inside_the_answer_is_refused():
    content = json.loads(admission().to_bytes())
    content["roster"]["authorities"] = bundle([new_authority(now=NOW).certificate])
    with pytest.raises(TrustError, match="not signed by the consortium"):
        Admission.parse(json.dumps(content).encode()).verify()


def test_an_answer_with_another_s_consortium_key_is_refused():
    data = edited(admission().to_bytes(), consortium=public_hex(THEIRS))
    with pytest.raises(TrustError, match="not signed by the consortium"):
        Admission.parse(data).verify()
