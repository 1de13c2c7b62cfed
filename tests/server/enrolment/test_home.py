"""The centre's home: made whole, never over another, with settings that say what is wrong."""

import pytest
from consortia import ADDRESS, NOW, everything

from wardround_server.enrolment.admission import answer_of
from wardround_server.enrolment.home import ServerHome
from wardround_server.enrolment.renewal import certificate_facts
from wardround_server.enrolment.rosters import current_roster, history
from wardround_server.enrolment.settings import parse_settings, settings_text
from wardround_shared.consortium import files
from wardround_shared.errors import EnrolmentError, TrustError

SETTINGS = settings_text(address=ADDRESS)


def make(folder, **changes):
    return ServerHome.init(folder, settings=SETTINGS, now=NOW, **changes)


def test_a_new_home_has_everything_and_is_for_its_user_alone(tmp_path):
    home = make(tmp_path / "home")
    assert ServerHome.open(tmp_path / "home") == home
    assert sorted(everything(home.folder)) == [
        "consortium/private.pem",
        "consortium/public.pem",
        "roster.json",
        "rosters/1.json",
        "server.toml",
        "tls/ca.key",
        "tls/ca.pem",
        "tls/server.key",
        "tls/server.pem",
    ]
    for path in (home.folder, *home.folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert current_roster(home).version == 1
    assert history(home) == [current_roster(home)]
    facts = certificate_facts(home)
    assert facts.names == ("localhost",)
    assert (facts.ends - NOW).days == 365
    assert (facts.authority_ends - NOW).days == 3652
    assert answer_of(home).address == ADDRESS


def test_a_home_is_never_made_over_another(tmp_path):
    home = make(tmp_path / "home")
    before = everything(home.folder)
    with pytest.raises(EnrolmentError, match="nothing is ever written over"):
        make(tmp_path / "home")
    assert everything(home.folder) == before


def test_a_home_that_a_crash_has_interrupted_is_whole_or_nothing(tmp_path, monkeypatch):
    """Before the change is ready there is no home; after it, opening finishes it."""
    folder = tmp_path / "home"

    def crash(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(files, "_sync", crash)
        with pytest.raises(KeyboardInterrupt):
            make(folder)
    with pytest.raises(EnrolmentError, match="no server home here"):
        ServerHome.open(folder)
    with monkeypatch.context() as context:
        place = files._place

        def crash_at_the_third(made, file, *, kept):
            if made.name == "3":
                raise KeyboardInterrupt
            place(made, file, kept=kept)

        context.setattr(files, "_place", crash_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            make(folder)
    assert not (folder / "roster.json").exists()
    certificate_facts(ServerHome.open(folder))
    assert current_roster(ServerHome.open(folder)).version == 1


def test_opening_what_is_no_home_leaves_nothing_behind(tmp_path):
    with pytest.raises(EnrolmentError, match="no server home here"):
        ServerHome.open(tmp_path)
    with pytest.raises(EnrolmentError, match="no server home here"):
        ServerHome.open(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_the_consortium_s_key_may_lie_elsewhere(tmp_path):
    stick = tmp_path / "stick" / "consortium.pem"
    home = make(tmp_path / "home", consortium_key=stick)
    assert not home.consortium_private.exists()
    assert stick.stat().st_mode & 0o777 == 0o600
    home.consortium_key(stick)
    with pytest.raises(EnrolmentError, match="--consortium-key"):
        home.consortium_key()
    moved = make(tmp_path / "moved", consortium_key=stick)
    assert moved.consortium() == home.consortium()


def test_another_consortium_s_key_is_refused(tmp_path):
    home, other = make(tmp_path / "home"), make(tmp_path / "other")
    with pytest.raises(TrustError, match="not the key of the consortium"):
        home.consortium_key(other.consortium_private)


def test_a_key_that_others_can_read_is_refused(tmp_path):
    home = make(tmp_path / "home")
    home.consortium_private.chmod(0o640)
    with pytest.raises(EnrolmentError, match="chmod 600"):
        home.consortium_key()
    home.certificate_key.chmod(0o604)
    with pytest.raises(EnrolmentError, match="chmod 600"):
        certificate_facts(home)


@pytest.mark.parametrize("kept", [0, 1, 40, 90])
def test_a_damaged_key_is_refused_in_words(tmp_path, kept):
    home = make(tmp_path / "home")
    for file in (home.consortium_private, home.certificate_key, home.authority_key):
        file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(EnrolmentError, match=r"private\.pem: .* backup"):
        home.consortium_key()
    with pytest.raises(EnrolmentError, match=r"server\.key: .* backup"):
        certificate_facts(home)


# --- settings -------------------------------------------------------------------------------------


def test_settings_have_their_usual_values():
    settings = parse_settings(settings_text(address="fl.example.org:9092"), origin="x")
    assert settings.address == "fl.example.org:9092"
    assert settings.certificate.names == ("fl.example.org",)
    assert (settings.listen.host, settings.listen.port) == ("0.0.0.0", 9092)
    assert (settings.health.host, settings.health.port) == ("127.0.0.1", 9093)
    assert (settings.metrics.host, settings.metrics.port) == ("127.0.0.1", 9094)
    short = 'address = "a:443"\n[certificate]\nnames = ["a"]\n'
    assert parse_settings(short, origin="x").listen.port == 9092


def test_settings_may_be_others():
    text = settings_text(
        address="[2001:db8::1]:443",
        names=("fl.example.org",),
        listen_host="::",
        listen_port=9443,
        health_port=1,
        metrics_port=2,
    )
    settings = parse_settings(text, origin="x")
    assert settings.certificate.names == ("2001:db8::1", "fl.example.org")
    assert (settings.listen.host, settings.listen.port) == ("::", 9443)
    assert (settings.health.port, settings.metrics.port) == (1, 2)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("port = 9092", "port = 70000", r"server\.toml: listen\.port: 70000 is not allowed"),
        ("port = 9093", "port = 9092", "the three ports must differ"),
        ("port = 9092", "prot = 9092", r"listen\.prot: there is no such key"),
        ('names = ["localhost"]', "names = []", r"certificate\.names: "),
        ('names = ["localhost"]', 'names = ["x"]', "the host of the address, localhost, is missi"),
        ('names = ["localhost"]', "", r"certificate\.names: this key is required"),
        ('address = "localhost:9092"', 'address = "localhost"', "address: .* host:port"),
        ('address = "localhost:9092"', "", "address: this key is required"),
        ("[listen]", "[listen", "not a TOML file"),
    ],
)
def test_a_wrong_setting_is_named_with_file_and_key(old, new, match):
    assert old in SETTINGS
    with pytest.raises(EnrolmentError, match=match) as raised:
        parse_settings(SETTINGS.replace(old, new, 1), origin="/srv/wardround/server.toml")
    assert "server.toml" in str(raised.value)


@pytest.mark.parametrize("address", ["here", "a b:1", "A.example:1", 'a"\nx = "b:1'])
def test_init_refuses_an_address_that_is_none(address):
    with pytest.raises(EnrolmentError, match="address: "):
        settings_text(address=address)


def test_a_setting_that_is_no_text_is_refused(tmp_path):
    home = make(tmp_path / "home")
    home.settings_file.write_bytes(b"\xff")
    with pytest.raises(EnrolmentError, match="UTF-8"):
        home.settings()
