"""The example settings are read by the parsers of the daemons, and are what the commands write."""

from datetime import UTC, datetime

import pytest

from wardround_client import policy
from wardround_client.enrolment import settings as site_settings
from wardround_client.policy import load_policy
from wardround_server.enrolment import settings as server_settings
from wardround_shared.errors import NotAllowedError, WardroundError
from wardround_shared.study import load_study


@pytest.fixture(scope="session")
def examples(deploy):
    return deploy / "examples"


def text_of(file):
    return file.read_text(encoding="utf-8")


def test_the_servers_settings_are_what_init_writes(examples):
    written = server_settings.settings_text(
        address="fl.example.org:9092", names=("fl-internal.example.org",)
    )
    assert text_of(examples / "server.toml") == written


def test_the_sites_settings_are_what_init_and_join_write(examples):
    made = site_settings.settings_text("hospital-a")
    joined = site_settings.with_server(made, "fl.example.org:9092", origin="site.toml")
    assert text_of(examples / "site.toml") == joined


def test_the_policy_says_what_its_comments_say(examples):
    read = load_policy(examples / "policy.toml")
    assert read.rules.minimum_cohort == 5
    assert not read.rules.open_at(datetime(2026, 1, 5, 12, 0).astimezone())
    assert read.rules.open_at(datetime(2026, 1, 5, 23, 0).astimezone())
    assert read.population_of("chest-ct") == read.population_of("chest-xray")
    assert read.cap_of("chest-ct") == read.cap_of("chest-xray")
    assert read.cap_of("chest-ct").epsilon == 2.0
    assert (read.cap_of("heart").epsilon, read.cap_of("heart").delta) == (1.0, 1e-5)
    assert read.cap_of("anything-else").epsilon == 4.0


def test_the_policy_refuses_a_study_that_it_should(examples, root):
    study = load_study(root / "simulations" / "studies" / "heart-disease.toml")
    night = datetime(2026, 1, 5, 23, 0, tzinfo=UTC).astimezone()
    with pytest.raises(NotAllowedError):
        load_policy(examples / "policy.toml").check(study, data_set="heart", sites=4, now=night)


@pytest.mark.parametrize(
    ("name", "parse"),
    [
        ("server.toml", server_settings.parse_settings),
        ("site.toml", site_settings.parse_settings),
        ("policy.toml", policy.parse_policy),
    ],
)
def test_a_misspelt_key_would_be_noticed(examples, name, parse):
    text = text_of(examples / name)
    parse(text, origin=name)
    with pytest.raises(WardroundError):
        parse("adress = 1\n" + text, origin=name)
