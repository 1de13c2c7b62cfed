"""A site's home: made whole, never over another, its keys for its user alone."""

import subprocess

import pytest
from consortia import everything
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from wardround_client.enrolment import home as homes
from wardround_client.enrolment.home import SiteHome
from wardround_client.enrolment.settings import parse_settings, settings_text, with_server
from wardround_client.ledger import Cap, Ledger, Purpose, verify
from wardround_client.policy import load_policy
from wardround_shared.errors import EnrolmentError
from wardround_shared.privacy.accounting import SampledGaussian
from wardround_shared.secure_aggregation import Identity


@pytest.fixture
def home(tmp_path):
    return SiteHome.init(tmp_path / "home", "hospital-a")


def test_a_new_home_has_everything_and_is_for_its_user_alone(home):
    assert SiteHome.open(home.folder) == home
    assert sorted(everything(home.folder)) == [
        "keys/identity.key",
        "keys/ledger.anchor",
        "keys/ledger.key",
        "keys/node.key",
        "keys/node.pub",
        "ledger/ledger.db",
        "policy.toml",
        "site.toml",
    ]
    for path in (home.folder, *home.folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert home.settings().name == "hospital-a"
    assert home.settings().server is None
    assert not home.joined
    load_policy(home.policy)
    assert verify(home.folder) == []
    assert Ledger.open(home.folder, site="hospital-a").entries() == ()


def test_the_keys_are_in_the_forms_that_read_them(home):
    """Secure aggregation reads 32 bytes, Flower's SuperNode an OpenSSH key of an EC curve."""
    identity = Identity(home.keys.identity.read_bytes())
    assert identity.public.hex() == home.own_keys().identity_hex
    node = load_ssh_private_key(home.keys.node.read_bytes(), None)
    assert isinstance(node, ec.EllipticCurvePrivateKey)
    assert home.keys.node_public.read_text() == f"{home.own_keys().node_line}\n"
    assert home.identity_file(identity.public.hex()) == home.keys.identity
    with pytest.raises(EnrolmentError, match="replaced more than once"):
        home.identity_file("00" * 32)


def test_the_supernode_takes_the_node_key(home):
    """Its own function, with the arguments of its own command."""
    from argparse import Namespace

    from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

    arguments = Namespace(
        auth_supernode_private_key=str(home.keys.node), auth_supernode_public_key=None
    )
    _, public = _try_setup_client_authentication(arguments) or (None, None)
    assert public == home.own_keys().node.public_key()


def test_two_homes_share_no_key(home, tmp_path):
    other = SiteHome.init(tmp_path / "other", "hospital-a").own_keys()
    mine = home.own_keys()
    assert mine.identity_hex != other.identity_hex
    assert mine.node_line != other.node_line


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65, 'a"', "a\\", "a\nb = 1", "-a"])
def test_a_name_that_is_none_makes_no_home(tmp_path, name):
    with pytest.raises(EnrolmentError, match=r"site\.toml"):
        SiteHome.init(tmp_path / "home", name)
    assert not (tmp_path / "home").exists()


def test_a_home_is_never_made_over_another(home):
    before = everything(home.folder)
    with pytest.raises(EnrolmentError, match="nothing is ever written over"):
        SiteHome.init(home.folder, "hospital-a")
    assert everything(home.folder) == before


def test_a_home_whose_ledger_is_gone_gets_no_new_one(home):
    """What was spent would be forgotten with it."""
    for file in (home.folder / "ledger" / "ledger.db", *home.folder.glob("keys/ledger.*")):
        file.unlink()
    with pytest.raises(EnrolmentError, match="nothing is ever written over"):
        SiteHome.init(home.folder, "hospital-a")
    assert not Ledger.traces(home.folder)


# --- half-made homes ------------------------------------------------------------------------------


def crash(*_, **__):
    raise KeyboardInterrupt


def half_made(folder, monkeypatch, *, after: str):
    """A home whose making was broken off before or after its ledger."""
    with monkeypatch.context() as context:
        if after == "keys":
            context.setattr(homes.Ledger, "create", crash)
        else:
            create = Ledger.create
            context.setattr(
                homes.Ledger, "create", lambda *args, **kw: (create(*args, **kw), crash())
            )
        with pytest.raises(KeyboardInterrupt):
            SiteHome.init(folder, "hospital-a")


@pytest.mark.parametrize("after", ["keys", "ledger"])
def test_a_half_made_home_is_not_opened_and_is_completed_by_init(tmp_path, monkeypatch, after):
    folder = tmp_path / "home"
    half_made(folder, monkeypatch, after=after)
    keys = SiteHome(folder=folder).own_keys().identity_hex
    with pytest.raises(EnrolmentError, match="half made; run wardround-site init again"):
        SiteHome.open(folder)
    with pytest.raises(EnrolmentError, match="half-made home of the site hospital-a"):
        SiteHome.init(folder, "hospital-b")
    SiteHome.init(folder, "hospital-a")
    assert SiteHome.open(folder).own_keys().identity_hex == keys
    assert verify(folder) == []


def test_a_half_made_ledger_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    half_made(folder, monkeypatch, after="ledger")
    (folder / "keys" / "ledger.anchor").unlink()
    with pytest.raises(EnrolmentError, match="remove the folder"):
        SiteHome.init(folder, "hospital-a")


def test_a_used_ledger_is_never_taken_for_a_new_one(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    half_made(folder, monkeypatch, after="ledger")
    ledger = Ledger.open(folder, site="hospital-a")
    purpose = Purpose(
        study="s", study_id="0" * 64, run="r", round=1, data_set="d", population="p", unit="patient"
    )
    cost = SampledGaussian(noise_multiplier=1.0, sample_rate=0.1, steps=1)
    ledger.reserve(cost, purpose=purpose, cap=Cap(epsilon=8.0, delta=1e-5))
    with pytest.raises(EnrolmentError, match="its ledger was used"):
        SiteHome.init(folder, "hospital-a")


def test_opening_what_is_no_home_leaves_nothing_behind(tmp_path):
    with pytest.raises(EnrolmentError, match="no site home here"):
        SiteHome.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["identity.key", "node.key"])
def test_keys_that_others_can_get_at_are_refused(home, key):
    (home.keys.folder / key).chmod(0o640)
    with pytest.raises(EnrolmentError, match=rf"{key}: .* chmod 600"):
        SiteHome.open(home.folder)


@pytest.mark.parametrize("key", ["identity.key", "node.key"])
def test_keys_that_were_cut_off_or_removed_are_refused(home, key):
    file = home.keys.folder / key
    data = file.read_bytes()
    for length in range(0, len(data) - 1, 1 if len(data) < 100 else 25):
        file.write_bytes(data[:length])
        with pytest.raises(EnrolmentError, match=rf"{key}: this key is damaged"):
            SiteHome.open(home.folder)
    file.unlink()
    with pytest.raises(EnrolmentError, match=rf"{key}: cannot be read"):
        SiteHome.open(home.folder)


def test_a_node_key_of_another_kind_is_refused(home, tmp_path):
    made = tmp_path / "other"
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "256", "-N", "", "-f", str(made)]
    subprocess.run(command, check=True)
    home.keys.node.write_bytes(made.read_bytes())
    with pytest.raises(EnrolmentError, match="of another kind"):
        home.own_keys()


# --- settings -------------------------------------------------------------------------------------


def test_the_server_is_filled_in_and_everything_else_stays():
    text = settings_text("hospital-a")
    filled = with_server(text, "fl.example.org:9092", origin="x")
    settings = parse_settings(filled, origin="x")
    assert (settings.name, settings.server) == ("hospital-a", "fl.example.org:9092")
    assert len(filled.splitlines()) == len(text.splitlines())
    again = with_server(filled, "10.0.0.1:1", origin="x")
    assert parse_settings(again, origin="x").server == "10.0.0.1:1"
    assert with_server(again, "fl.example.org:9092", origin="x") == filled


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('server = "a:1"', "name: this key is required"),
        ('name = "a"\nserver = "a"', "server: .* host:port"),
        ('name = "a"\nsrever = "a:1"', "srever: there is no such key"),
        ('name = "a b"', "name: "),
        ("name = a", "not a TOML file"),
    ],
)
def test_a_wrong_setting_is_named(text, match):
    with pytest.raises(EnrolmentError, match=rf"^site\.toml: .*{match}"):
        parse_settings(text, origin="site.toml")


def test_settings_without_a_line_for_the_server_are_refused():
    with pytest.raises(EnrolmentError, match="server = "):
        with_server('name = "a"\n', "a:1", origin="site.toml")
