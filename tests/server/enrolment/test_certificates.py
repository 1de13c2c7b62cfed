"""Certificates, judged by real TLS handshakes over loopback: who gets through, and when."""

import datetime as dt
import socket
import ssl
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from consortia import ADDRESS, everything
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from wardround_server.enrolment.certificates import (
    Issued,
    load_certificate,
    load_key,
    new_authority,
    new_server_certificate,
)
from wardround_server.enrolment.home import ServerHome
from wardround_server.enrolment.renewal import (
    certificate_facts,
    finish_rotation,
    renew_server,
    rotate_ca,
    rotating,
)
from wardround_server.enrolment.rosters import current_roster
from wardround_server.enrolment.settings import settings_text
from wardround_shared.consortium.authorities import authorities_of
from wardround_shared.errors import EnrolmentError, TrustError

# Handshakes go by the real clock.
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
LATER = NOW + dt.timedelta(minutes=1)


@pytest.fixture
def home(tmp_path):
    text = settings_text(address=ADDRESS, names=("127.0.0.1",))
    return ServerHome.init(tmp_path / "server", settings=text, now=NOW)


@contextmanager
def serving(certificate: Path, key: Path):
    """A TLS server on loopback that greets whoever gets through the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) as secured:
                    secured.sendall(b"hello")
            except (OSError, ssl.SSLError):
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def shake_hands(port: int, *, trusting: str, name: str = "localhost") -> None:
    """As a site does, and as strict as Python 3.13 is."""
    context = ssl.create_default_context(cadata=trusting)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        assert secured.recv(5) == b"hello"


def trusted(home: ServerHome) -> str:
    return current_roster(home).authorities


def write(folder: Path, issued: Issued) -> tuple[Path, Path]:
    certificate, key = folder / "other.pem", folder / "other.key"
    certificate.write_bytes(issued.certificate_pem)
    key.write_bytes(issued.key_pem)
    return certificate, key


def authority_of(home: ServerHome) -> Issued:
    return Issued(
        certificate=load_certificate(home.authorities.read_bytes(), origin="ca.pem"),
        key=load_key(home.authority_key.read_bytes(), origin="ca.key"),
    )


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_the_right_name_or_address_gets_through(home, name):
    with serving(home.certificate, home.certificate_key) as port:
        shake_hands(port, trusting=trusted(home), name=name)


@pytest.mark.parametrize("name", ["fl.example.org", "127.0.0.2"])
def test_another_host_is_refused(home, name):
    """One that has a certificate of ours, but for another name."""
    with (
        serving(home.certificate, home.certificate_key) as port,
        pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for|mismatch"),
    ):
        shake_hands(port, trusting=trusted(home), name=name)


def test_another_authority_is_refused(home, tmp_path):
    other = new_server_certificate(new_authority(now=NOW), names=("localhost",), now=NOW)
    with (
        serving(*write(tmp_path, other)) as port,
        pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"),
    ):
        shake_hands(port, trusting=trusted(home))


@pytest.mark.parametrize(
    ("made", "match"), [(dt.timedelta(days=-400), "expired"), (dt.timedelta(days=3), "not yet")]
)
def test_a_certificate_out_of_its_time_is_refused(tmp_path, made, match):
    authority = new_authority(now=NOW - dt.timedelta(days=800))
    issued = new_server_certificate(authority, names=("localhost",), now=NOW + made)
    with (
        serving(*write(tmp_path, issued)) as port,
        pytest.raises(ssl.SSLCertVerificationError, match=match),
    ):
        shake_hands(port, trusting=authority.certificate_pem.decode())


def test_the_server_s_key_cannot_sign_for_others(home, tmp_path):
    """Whoever has stolen it has this one server, and no authority."""
    server = Issued(
        certificate=load_certificate(home.certificate.read_bytes(), origin="x"),
        key=load_key(home.certificate_key.read_bytes(), origin="x"),
    )
    forged = new_server_certificate(server, names=("fl.example.org",), now=NOW)
    certificate, key = write(tmp_path, forged)
    certificate.write_bytes(forged.certificate_pem + server.certificate_pem)
    with (
        serving(certificate, key) as port,
        pytest.raises(ssl.SSLCertVerificationError, match=r"invalid CA|not permitted|local issuer"),
    ):
        shake_hands(port, trusting=trusted(home), name="fl.example.org")


def test_what_certificates_may_be_used_for(home):
    authority = load_certificate(home.authorities.read_bytes(), origin="x")
    server = load_certificate(home.certificate.read_bytes(), origin="x")
    of = {one: one.extensions.get_extension_for_class for one in (authority, server)}
    assert of[authority](x509.BasicConstraints).value == x509.BasicConstraints(
        ca=True, path_length=0
    )
    assert of[authority](x509.KeyUsage).value.key_cert_sign
    assert not of[server](x509.BasicConstraints).value.ca
    assert not of[server](x509.KeyUsage).value.key_cert_sign
    usages = of[server](x509.ExtendedKeyUsage).value
    assert list(usages) == [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]
    for certificate in (authority, server):
        assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)


# --- renewal --------------------------------------------------------------------------------------


def test_a_renewed_certificate_cuts_nobody_off(home):
    before, known = certificate_facts(home), trusted(home)
    after = renew_server(home, now=LATER)
    assert after == certificate_facts(home)
    assert after.serial != before.serial
    assert after.ends > before.ends
    assert current_roster(home).version == 1, "sites need not hear of it"
    with serving(home.certificate, home.certificate_key) as port:
        shake_hands(port, trusting=known)


def test_a_renewed_certificate_is_for_the_names_of_today(home):
    text = home.settings_file.read_text()
    home.settings_file.write_text(text.replace('"127.0.0.1"]', '"fl.example.org"]'))
    assert renew_server(home, now=LATER).names == ("localhost", "fl.example.org")
    with serving(home.certificate, home.certificate_key) as port:
        shake_hands(port, trusting=trusted(home), name="fl.example.org")


def test_no_certificate_outlives_its_authority(home):
    ends = certificate_facts(home).authority_ends
    late = ends - dt.timedelta(days=10)
    assert renew_server(home, now=late).ends == ends
    with pytest.raises(EnrolmentError, match="certificates rotate"):
        renew_server(home, now=ends)


def test_a_new_authority_overlaps_with_the_old_one(home):
    """Sites that are slow by one version of the roster are not cut off."""
    old = trusted(home)
    begun = rotate_ca(home, now=LATER)
    both = trusted(home)
    assert begun.version == 2
    assert rotating(home)
    assert authorities_of(both)[0] == authorities_of(old)[0]
    assert both == home.authorities.read_text()
    with serving(home.certificate, home.certificate_key) as port:
        shake_hands(port, trusting=old)
        shake_hands(port, trusting=both)

    finished = finish_rotation(home, now=LATER)
    new = trusted(home)
    assert finished.version == 3
    assert not rotating(home)
    assert authorities_of(new) == authorities_of(both)[1:]
    assert certificate_facts(home) == finished.certificate
    with serving(home.certificate, home.certificate_key) as port:
        shake_hands(port, trusting=both)
        shake_hands(port, trusting=new)
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(port, trusting=old)


def test_a_stolen_authority_is_worth_nothing_once_it_is_replaced(home, tmp_path):
    stolen = authority_of(home)
    forged = new_server_certificate(stolen, names=("localhost",), now=NOW)
    with serving(*write(tmp_path, forged)) as port:
        shake_hands(port, trusting=trusted(home))
        rotate_ca(home, now=LATER)
        finish_rotation(home, now=LATER)
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(port, trusting=trusted(home))


def test_a_server_certificate_can_be_renewed_during_a_rotation(home):
    old = trusted(home)
    rotate_ca(home, now=LATER)
    renew_server(home, now=LATER)
    with serving(home.certificate, home.certificate_key) as port:
        shake_hands(port, trusting=old)
    finish_rotation(home, now=LATER)


def test_a_rotation_is_begun_once_and_finished_once(home):
    with pytest.raises(EnrolmentError, match="no change of the certificate authority is under way"):
        finish_rotation(home, now=LATER)
    rotate_ca(home, now=LATER)
    before = everything(home.folder)
    with pytest.raises(EnrolmentError, match="under way"):
        rotate_ca(home, now=LATER)
    assert everything(home.folder) == before


def test_an_authority_cannot_be_changed_without_the_consortium_s_key(home, tmp_path):
    text = settings_text(address=ADDRESS)
    other = ServerHome.init(tmp_path / "other", settings=text, now=NOW)
    before = everything(home.folder)
    with pytest.raises(TrustError):
        rotate_ca(home, now=LATER, consortium_key=other.consortium_private)
    rotate_ca(home, now=LATER)
    begun = everything(home.folder)
    assert begun != before
    home.consortium_private.unlink()
    with pytest.raises(EnrolmentError, match="--consortium-key"):
        finish_rotation(home, now=LATER)


def test_a_certificate_that_does_not_fit_its_key_or_authority_is_named(home, tmp_path):
    kept = home.certificate.read_bytes()
    stranger = new_server_certificate(new_authority(now=NOW), names=("localhost",), now=NOW)
    home.certificate.write_bytes(stranger.certificate_pem)
    with pytest.raises(EnrolmentError, match="not signed by the authority"):
        certificate_facts(home)
    home.certificate.write_bytes(kept)
    home.certificate_key.write_bytes(stranger.key_pem)
    with pytest.raises(EnrolmentError, match="not the key of"):
        certificate_facts(home)
    home.authority_key.write_bytes(stranger.key_pem)
    with pytest.raises(EnrolmentError, match="belongs to this key"):
        certificate_facts(home)
    home.certificate.write_bytes(b"")
    with pytest.raises(EnrolmentError, match="no certificate in PEM"):
        certificate_facts(home)
