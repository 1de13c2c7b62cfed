"""Attacks on the roster: forged, edited, rolled back, cut off."""

import json

import pytest
from consortia import DAY, NOW, edited
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from wardround_server.enrolment.certificates import new_authority, new_server_certificate
from wardround_shared.consortium.authorities import bundle
from wardround_shared.consortium.enrolment import JoinRequest
from wardround_shared.consortium.fields import iso_time, node_key_line
from wardround_shared.consortium.roster_file import RosterLine, SignedRoster
from wardround_shared.consortium.signatures import public_hex
from wardround_shared.errors import EnrolmentError, TrustError

CONSORTIUM = Ed25519PrivateKey.generate()
PUBLIC = public_hex(CONSORTIUM)
AUTHORITY = new_authority(now=NOW)
AUTHORITIES = bundle([AUTHORITY.certificate])


def line(site: str) -> RosterLine:
    return RosterLine(
        site=site,
        identity=public_hex(Ed25519PrivateKey.generate()),
        node_key=node_key_line(ec.generate_private_key(ec.SECP384R1()).public_key()),
        admitted="2026-01-31",
    )


LINES = [line("b"), line("a"), line("c")]


def roster(version: int = 3, *, lines=LINES, key=CONSORTIUM, authorities=AUTHORITIES):
    return SignedRoster.sign(
        key, version=version, issued=iso_time(NOW), authorities=authorities, lines=lines
    )


ROSTER = roster()
DATA = ROSTER.to_bytes()


def refuse(data: bytes, match: str, error=EnrolmentError):
    """Reading or verifying refuses, and a mere mistake is not called an attack or the reverse."""
    with pytest.raises(error, match=match) as raised:
        SignedRoster.parse(data).verify(PUBLIC)
    assert type(raised.value) is error


def with_line(**changes):
    lines = json.loads(DATA)["lines"]
    lines[1] |= changes
    return edited(DATA, lines=lines)


def test_what_was_signed_is_read_and_verified():
    read = SignedRoster.parse(DATA)
    read.verify(PUBLIC)
    assert read == ROSTER
    assert [one.site for one in read.lines] == ["a", "b", "c"]
    assert read.identities()["b"].hex() == LINES[0].identity
    assert read.line("c") == LINES[2]
    assert read.line("d") is None


def test_spaces_and_order_of_keys_do_not_matter():
    content = json.loads(DATA)
    SignedRoster.parse(json.dumps(dict(reversed(content.items()))).encode()).verify(PUBLIC)


def test_a_forged_roster_is_refused():
    refuse(roster(key=Ed25519PrivateKey.generate()).to_bytes(), "not signed", TrustError)


@pytest.mark.parametrize(
    "data",
    [
        with_line(site="bb"),
        with_line(identity=line("x").identity),
        with_line(node_key=line("x").node_key),
        with_line(admitted="2026-01-30"),
        edited(DATA, version=4),
        edited(DATA, issued="2026-03-02T12:00:00Z"),
        edited(DATA, authorities=bundle([new_authority(now=NOW).certificate])),
        edited(DATA, lines=json.loads(DATA)["lines"][:2]),
        edited(DATA, lines=[]),
        edited(DATA, signature="00" * 64),
    ],
)
def test_an_edited_roster_is_refused(data):
    refuse(data, "not signed", TrustError)


def test_a_signature_of_another_document_is_none_of_a_roster():
    """The same key, the same content, another label or none."""
    message = ROSTER.signed_bytes(without={"signature"})
    label = b"wardround/consortium/1/roster\n"
    assert message.startswith(label + b"{")
    for other in (b"", label.replace(b"roster", JoinRequest.label)):
        signature = CONSORTIUM.sign(message.replace(label, other)).hex()
        forged = ROSTER.model_copy(update={"signature": signature})
        refuse(forged.to_bytes(), "not signed", TrustError)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (edited(DATA, extra=1), "extra: there is no such key"),
        (with_line(role="admin"), "lines.1.role: there is no such key"),
        (edited(DATA, version="3"), "version: .* valid integer"),
        (edited(DATA, version=True), "version: .* valid integer"),
        (edited(DATA, version=3.5), "version: .* valid integer"),
        (edited(DATA, version=0), "version: .* greater than or equal to 1"),
        (edited(DATA, version=2**31), "version: .* less than"),
        (edited(DATA, lines={}), "lines: .* valid array"),
        (edited(DATA, lines=None), "lines: "),
        (edited(DATA, kind="wardround-roster/2"), "kind: "),
        (edited(DATA, authorities="x"), "authorities: .* no bundle of CA certificates"),
        (with_line(site="../etc"), "lines.1.site: "),
        (with_line(site=3), "lines.1.site: .* valid string"),
        (with_line(identity="0"), "lines.1.identity: "),
        (with_line(node_key="ssh-ed25519 AAAA"), "lines.1.node_key: .* P-384"),
        (b"[]", "roster: .* an object"),
        (b"", "no whole roster"),
        (b"\xff\xfe", "no whole roster"),
        (b"[" * 100_000, "no whole roster"),
        (b" " * (2**20 + 1), "too long"),
        (DATA + b"x", "no whole roster"),
        (DATA[:-1] + b', "version": 9}', 'the key "version" stands there twice'),
        (DATA.replace(b'"version": 3', b'"version": NaN'), "version: "),
    ],
)
def test_a_malformed_roster_is_refused_in_words(data, match):
    refuse(data, match)


def test_a_roster_that_names_somebody_twice_is_refused():
    a, b, _ = sorted(json.loads(DATA)["lines"], key=lambda one: one["site"])
    for lines, match in (
        ([a, a], "names a site twice"),
        ([b, a], "not sorted"),
        ([a, b | {"identity": a["identity"]}], "same identity"),
        ([a, b | {"node_key": a["node_key"]}], "same node key"),
        ([a | {"site": "B"}, b], "capitals only"),
    ):
        refuse(edited(DATA, lines=lines), match)


def test_a_roster_that_was_cut_off_anywhere_is_refused():
    for length in range(len(DATA)):
        with pytest.raises(EnrolmentError, match="no whole roster"):
            SignedRoster.parse(DATA[:length])


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(place, change):
    changed = bytearray(DATA)
    changed[place] ^= change
    try:
        read = SignedRoster.parse(bytes(changed))
        read.verify(PUBLIC)
    except EnrolmentError:
        return
    assert read == ROSTER, "only white space was another"


def test_an_older_version_is_refused():
    roster(4).require_newer(ROSTER)
    roster(9).require_newer(ROSTER)
    ROSTER.require_newer(ROSTER)
    with pytest.raises(TrustError, match="Version 3 of the roster is older than version 4"):
        ROSTER.require_newer(roster(4))


def test_two_rosters_of_one_version_are_refused():
    with pytest.raises(TrustError, match="two rosters of version 3"):
        roster(lines=LINES[:2]).require_newer(ROSTER)


def leaf():
    return new_server_certificate(AUTHORITY, names=("a",), now=NOW)


def other_authority(constraints: x509.BasicConstraints, key=None) -> str:
    """One that may sign certificates, and differs from ours in its constraints or key."""
    key = key or ec.generate_private_key(ec.SECP384R1())
    usage = AUTHORITY.certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    name = AUTHORITY.certificate.subject
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
        .add_extension(constraints, critical=True)
        .add_extension(usage, critical=True)
    )
    return bundle([builder.sign(key, hashes.SHA256())])


def test_only_authorities_like_ours_may_stand_there():
    ours = x509.BasicConstraints(ca=True, path_length=0)
    SignedRoster.parse(edited(DATA, authorities=other_authority(ours)))
    for constraints, key in (
        (x509.BasicConstraints(ca=True, path_length=None), None),
        (x509.BasicConstraints(ca=True, path_length=1), None),
        (x509.BasicConstraints(ca=False, path_length=None), None),
        (ours, rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    ):
        authorities = other_authority(constraints, key)
        refuse(edited(DATA, authorities=authorities), "EC keys and path length 0")


@pytest.mark.parametrize(
    "authorities",
    [
        bundle([leaf().certificate]),
        AUTHORITIES + AUTHORITIES,
        AUTHORITIES + AUTHORITY.key_pem.decode(),
        f"# ours\n{AUTHORITIES}",
        AUTHORITIES[:-2],
        "",
        bundle([new_authority(now=NOW).certificate for _ in range(3)]),
    ],
    ids=["a server's", "twice", "with a private key", "with text", "cut", "none", "three"],
)
def test_only_certificates_of_authorities_may_stand_there(authorities):
    refuse(edited(DATA, authorities=authorities), "authorities: ")
