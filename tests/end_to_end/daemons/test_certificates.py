"""Certificates and keys are replaced while a run goes on, and nobody is cut off."""

import socket
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_ssh_private_key
from daemons import RUNNER, Consortium, started, until

from wardround_shared.consortium.authorities import authorities_of

SITES = ("north", "south", "west")
OF_A_RUN = (
    "aggregation.secure=true",
    "aggregation.minimum-sites=3",
    "aggregation.deadline=40.0",
    "privacy.mechanism=none",
)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def consortium(folder):
    made = Consortium.found(folder, SITES, allow_without_privacy="true")
    with started(made):
        yield made


def shown(server, authorities):
    """The certificate that the server shows to who trusts these authorities."""
    context = ssl.create_default_context(cadata=authorities)
    with (
        socket.create_connection(("localhost", server.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        found = secured.getpeercert(binary_form=True)
    assert found is not None
    return x509.load_der_x509_certificate(found)


def content(keys):
    """A pair of private keys."""
    node = load_ssh_private_key(keys.node.read_bytes(), None)
    return keys.identity.read_bytes(), node.private_numbers()


def believed(site):
    """The authorities that a site trusts."""
    return site.files.authorities.read_text()


def test_everything_is_replaced_during_a_run_and_all_sites_stay_in_it(consortium, study):
    server, north = consortium.server, consortium.sites["north"]
    old_authorities = believed(north)
    old_keys = content(north.files.keys)
    run = consortium.submit(study, "replaced", *OF_A_RUN, "training.rounds=5")

    # A new certificate by the same authority: who connects from now on sees it.
    run.reach(1)
    before = shown(server, old_authorities).serial_number
    server("certificates", "renew")
    until(
        lambda: shown(server, old_authorities).serial_number != before,
        "the new certificate",
        seconds=20,
    )

    # New keys for a site, and a second authority: two versions of the roster.
    run.reach(2)
    request = consortium.folder / "north-again.wardround-request"
    north("keys", "rotate", request)
    server("admit", request, "--answer", consortium.folder / "unused.answer", "--yes")
    server("certificates", "rotate")
    assert content(north.files.keys) == old_keys
    assert run.state == "running"

    # The next greeting brings them: here that of a runner that was started anew.
    server.kill_child(RUNNER)
    for site in consortium.sites.values():
        until(
            lambda site=site: len(authorities_of(believed(site))) == 2,
            f"both authorities at {site.name}",
            told=consortium.tails,
        )
    run.finish()
    assert run.summary["participation"]["sentence"] == "3 of 3 sites took part in 5 of 5 rounds."
    new_keys = content(north.files.keys)
    assert all(new != old for new, old in zip(new_keys, old_keys, strict=True))
    assert content(north.files.retired_keys) == old_keys
    rosters = [one["version"] for one in north.audit if one["event"] == "roster"]
    assert rosters[-1:] == [server.overview()["roster_version"]]
    assert consortium.audit_faults() == []


@pytest.mark.long_form
def test_the_old_authority_goes_and_whoever_has_heard_of_the_new_one_stays(consortium, study):
    server, north = consortium.server, consortium.sites["north"]
    old_authorities = server.files.authorities.read_text()
    first = consortium.submit(study, "news", *OF_A_RUN, "training.rounds=1")
    if len(authorities_of(old_authorities)) == 1:  # the test above was left out
        server("certificates", "rotate")
    else:
        old_authorities = authorities_of(old_authorities)[0].public_bytes(Encoding.PEM).decode()
    first.finish()
    server("certificates", "finish")
    (new,) = authorities_of(server.files.authorities.read_text())
    assert len(authorities_of(believed(north))) == 2
    until(lambda: by(server, believed(north), new), "the new authority", seconds=20)
    with pytest.raises(ssl.SSLCertVerificationError):
        shown(server, old_authorities)

    again = consortium.submit(study, "afterwards", *OF_A_RUN, "training.rounds=1")
    again.finish()
    sentence = again.summary["participation"]["sentence"]
    assert sentence == "3 of 3 sites took part in 1 of 1 rounds."
    for site in consortium.sites.values():
        assert authorities_of(believed(site)) == [new]
    # And for who connects anew, with nothing but that.
    north.stop()
    server.forget_nodes()
    north.start()
    consortium.wait_online("north")
    assert consortium.audit_faults() == []


def by(server, authorities, authority):
    try:
        certificate = shown(server, authorities)
    except (ssl.SSLError, OSError):
        return False
    return certificate.issuer == authority.subject
