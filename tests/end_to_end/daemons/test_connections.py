"""Who gets through the door: TLS towards the site, keys towards the server."""

import json
import shutil
import socket
from datetime import UTC, datetime, timedelta

import pytest
from daemons import SUPERNODE, Consortium, Hospital, Server, until
from rogue_server import rogue

from wardround_client.flower.refusal import Refusal
from wardround_server.enrolment import renewal
from wardround_server.enrolment.certificates import new_server_certificate
from wardround_server.enrolment.home import ServerHome
from wardround_shared.flower import QUIET
from wardround_shared.supervision import Child, Program

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def consortium(folder):
    made = Consortium.found(folder, ("north",))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def site(consortium):
    """Started anew, so that its log is of this test."""
    north = consortium.sites["north"]
    north.log.write_text("")
    north.start()
    yield north
    north.stop()


def findings(site):
    """Check -> state and sentence of `doctor`."""
    from typer.testing import CliRunner

    from wardround_client.cli import app

    result = CliRunner().invoke(app, ["doctor", "--json", "--home", str(site.home)])
    return result.exit_code, json.loads(result.stdout)


def test_a_server_with_another_authority_is_told_nothing(consortium, site, tmp_path):
    """A man in the middle: the right name and port, a certificate by somebody else."""
    another = Server(tmp_path)
    text = consortium.server.files.settings_file.read_text()
    another.files.settings_file.write_text(text)
    renewal.renew_server(another.files, now=datetime.now(UTC))
    with rogue(consortium.server, files=another.files) as attacker:
        until(
            lambda: refused(site, "was not signed by the consortium"),
            "that the site notices",
            told=site.tail,
        )
        assert not attacker.online(site)
        code, found = findings(site)
        assert code == 1
        assert any("certificate" in one["sentence"] for one in found if one["state"] == "fail")
    assert site.running


def test_an_expired_certificate_is_refused_until_it_is_renewed(consortium, site):
    home: ServerHome = consortium.server.files
    authority = renewal._authority(home, home.authority_key)
    expired = new_server_certificate(
        authority, names=("localhost",), now=datetime.now(UTC), life=timedelta(minutes=-1)
    )
    home.certificate.write_bytes(expired.certificate_pem)
    home.certificate_key.write_bytes(expired.key_pem)
    with rogue(consortium.server) as server:
        until(lambda: refused(site, "has expired"), "that the site notices", told=site.tail)
        assert not server.online(site)
        code, found = findings(site)
        assert code == 1
        assert any("has ended on" in one["sentence"] for one in found if one["state"] == "fail")
        consortium.server("certificates", "renew")
        until(lambda: server.online(site), "the site, after the renewal", told=site.tail)
    assert consortium.server.audit[-1]["event"] == "certificate"


def refused(site, why):
    """Whether the site's audit log says in words why it was refused, and says it once."""
    told = [one["reason"] for one in site.audit if one["event"] == "refused"]
    return sum(why in reason for reason in told) == 1


# --- those who were never admitted ---------------------------------------------------------------


def test_a_site_that_never_joined_does_not_start(tmp_path):
    stranger = Hospital(tmp_path, "stranger")
    stranger.start()
    until(lambda: not stranger.running, "its end", seconds=30)
    assert "has not joined" in stranger.tail()
    stranger.close()


def test_a_site_with_the_files_of_another_does_not_start(consortium, tmp_path):
    stranger = Hospital(tmp_path, "stranger")
    north = consortium.sites["north"]
    shutil.copytree(north.home / "server", stranger.home / "server")
    shutil.copy(north.home / "site.toml", stranger.home / "site.toml")
    stranger.start()
    until(lambda: not stranger.running, "its end", seconds=30)
    assert "the roster has other keys for north" in stranger.tail()
    stranger.close()


def test_keys_that_were_never_admitted_do_not_connect(consortium, tmp_path, capfd):
    """With software of its own a stranger gets as far as the door."""
    server, stranger = consortium.server, Hospital(tmp_path, "stranger")
    server.start()
    ours, theirs = socket.socketpair()
    listening = socket.create_server(("127.0.0.1", 0))
    try:
        until(lambda: server.overview()["serving"], "the server", told=server.tail, seconds=60)
        with ours, theirs, listening:
            node = Child(
                Program(
                    name="supernode",
                    module=SUPERNODE,
                    settings={
                        "server": f"localhost:{server.port}",
                        "ca": str(server.files.authorities),
                        "node_key": str(stranger.files.keys.node),
                        "node_id": str(tmp_path / "node.id"),
                        "listening": listening.fileno(),
                        "token": "t",
                        "worker": ours.fileno(),
                    },
                    environment=QUIET,
                    descriptors=(ours.fileno(), listening.fileno()),
                )
            )
            code = until(node.ended, "that it is refused", seconds=60)
            node.wait_for_end()
        assert code == Refusal.NOT_ADMITTED
        assert "Failed to activate SuperNode" in capfd.readouterr().err
        assert server.online() == set()
        assert not (tmp_path / "node.id").exists()
        (line,) = [one for one in server.audit if one["event"] == "refused"]
        assert "not in the roster" in line["reason"]
    finally:
        server.stop()
