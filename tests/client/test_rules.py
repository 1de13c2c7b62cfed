"""What a hospital's rules refuse, in words that tell both sides what to do."""

import re
import time
from datetime import UTC, datetime
from datetime import time as clock
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_client.policy import TEMPLATE, Policy, parse_policy
from wardround_client.rules import Hours, Rules, fewest_sites
from wardround_shared.errors import NotAllowedError, PolicyError
from wardround_shared.study import MODEL_NAMES, load_study
from wardround_simulations.options import find_study

NOON = datetime(2027, 3, 1, 12, 0, tzinfo=UTC)


def study(*overrides):
    return load_study(find_study("heart-disease"), overrides)


def policy(rules="", rest=""):
    return parse_policy(f"[rules]\n{rules}\n{rest}", origin="policy.toml")


def refusal(allowed, asked, *, sites=4, now=NOON, data_set="ecg"):
    """The sentence, checked for what no sentence may have."""
    with pytest.raises(NotAllowedError) as caught:
        allowed.check(asked, data_set=data_set, sites=sites, now=now)
    assert caught.value.may_leave_site
    sentence = str(caught.value)
    assert sentence.startswith("This site ")
    assert sentence.endswith(".")
    for unfit in ("policy.toml", "ecg", "\n"):
        assert unfit not in sentence
    return sentence


@pytest.fixture
def local_time(monkeypatch):
    """Lets the machine stand in another time zone."""

    def stand(zone):
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield stand
    monkeypatch.undo()
    time.tzset()


def test_what_the_template_says_is_the_default():
    assert parse_policy(TEMPLATE, origin="policy.toml").rules == Policy().rules
    rules = Policy().rules
    assert (rules.minimum_cohort, rules.require_secure_aggregation) == (3, True)
    assert (rules.allow_without_privacy, rules.models, rules.hours) == (False, None, None)
    assert rules.allow_burned_in_annotation is False


def test_every_commented_rule_of_the_template_can_be_taken():
    lines = [
        line.removeprefix("# ") if line.startswith(("# models =", "# hours =")) else line
        for line in TEMPLATE.replace(",\n#     ", ", ").splitlines()
    ]
    rules = parse_policy("\n".join(lines), origin="policy.toml").rules
    assert rules.models == MODEL_NAMES
    assert rules.hours == "20:00-06:00"


def test_an_ordinary_study_is_allowed_by_an_empty_policy():
    Policy().check(study(), data_set="ecg", sites=4, now=NOON)
    Policy().check(study(), data_set="ecg", sites=None, now=NOON)


def test_a_study_in_the_clear_is_refused_unless_allowed():
    clear = study("aggregation.secure=false")
    assert "only with secure aggregation" in refusal(Policy(), clear)
    policy("require-secure-aggregation = false").check(clear, data_set="ecg", sites=4, now=NOON)


def test_a_study_without_privacy_is_refused_unless_allowed():
    open_ = study("privacy.mechanism=none")
    assert 'privacy.mechanism = "none"' in refusal(Policy(), open_)
    policy("allow-without-privacy = true").check(open_, data_set="ecg", sites=4, now=NOON)


def test_a_model_that_is_not_on_the_list_is_refused():
    said = refusal(policy('models = ["cnn", "lstm"]'), study())
    assert "cnn, lstm" in said
    assert "mlp" in said
    policy('models = ["cnn", "mlp"]').check(study(), data_set="ecg", sites=4, now=NOON)


@pytest.mark.parametrize(
    ("sites", "minimum", "fewest"), [(3, 3, 3), (4, 2, 3), (6, 2, 5), (6, 6, 6), (10, 2, 7)]
)
def test_the_smallest_sum_follows_from_roster_and_study(sites, minimum, fewest):
    asked = study(f"aggregation.minimum-sites={minimum}")
    assert fewest_sites(asked, sites) == fewest
    policy(f"minimum-cohort = {fewest}").check(asked, data_set="ecg", sites=sites, now=NOON)
    said = refusal(policy(f"minimum-cohort = {fewest + 1}"), asked, sites=sites)
    assert f"at least {fewest + 1} sites" in said
    assert f"over {fewest};" in said


def test_in_the_clear_the_smallest_sum_is_what_the_study_says_however_many_sites_there_are():
    allowed = policy("require-secure-aggregation = false\nminimum-cohort = 4")
    few = study("aggregation.secure=false", "aggregation.minimum-sites=3")
    for sites in (None, 10):
        assert "over 3;" in refusal(allowed, few, sites=sites)
    enough = study("aggregation.secure=false", "aggregation.minimum-sites=4")
    allowed.check(enough, data_set="ecg", sites=None, now=NOON)


def test_a_study_above_a_cap_of_the_data_set_is_refused_before_it_begins():
    strict = policy(rest="[data-sets.ecg]\nepsilon = 2.0")
    said = refusal(strict, study("privacy.epsilon=2.5"))
    assert "epsilon 2 at delta 1e-05" in said
    assert "2.5" in said
    strict.check(study("privacy.epsilon=2.0"), data_set="ecg", sites=4, now=NOON)
    strict.check(study("privacy.epsilon=2.5"), data_set="echo", sites=4, now=NOON)


def test_at_another_delta_only_the_accountant_can_compare():
    strict = policy(rest="[data-sets.ecg]\nepsilon = 2.0")
    smaller = study("privacy.epsilon=2.5", "privacy.delta=1e-9")
    strict.check(smaller, data_set="ecg", sites=4, now=NOON)
    assert "asks for 2.5" in refusal(strict, study("privacy.epsilon=2.5", "privacy.delta=1e-4"))


def test_every_refusal_is_told_not_only_the_first():
    asked = study("aggregation.secure=false", "privacy.mechanism=none")
    strict = policy('models = ["cnn"]\nminimum-cohort = 5\nhours = "20:00-20:01"')
    assert len(list(strict.refusals(asked, data_set="ecg", sites=4))) == 4
    assert "local time" in strict.rules.closed_at(NOON)


# --- hours -----------------------------------------------------------------------------------


def test_outside_its_hours_a_site_refuses_in_its_own_time(local_time):
    local_time("Europe/Berlin")
    night = policy('hours = "20:00-06:00"')
    said = refusal(night, study())
    assert "from 20:00 to 06:00" in said
    assert "it is 13:00 there" in said
    night.check(study(), data_set="ecg", sites=4, now=datetime(2027, 3, 1, 19, 0, tzinfo=UTC))
    night.check(study(), data_set="ecg", sites=4, now=datetime(2027, 3, 1, 4, 59, tzinfo=UTC))
    refusal(night, study(), now=datetime(2027, 3, 1, 5, 0, tzinfo=UTC))
    local_time("Asia/Tokyo")
    night.check(study(), data_set="ecg", sites=4, now=NOON)


@given(st.integers(0, 1439), st.integers(0, 1440), st.integers(0, 1439))
def test_hours_and_the_rest_of_the_day_make_the_day(begin, end, minute):
    if begin in {end, end % 1440}:
        return
    moment = clock(minute // 60, minute % 60)
    inside = Hours(begin=begin, end=end).contain(moment)
    outside = Hours(begin=end % 1440, end=begin).contain(moment)
    assert inside != outside
    assert not Hours(begin=begin, end=end).contain(clock(end % 1440 // 60, end % 60))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("night", 'like "20:00-06:00"'),
        ("20:00", "like"),
        ("20-06", "like"),
        ("25:00-06:00", "25:00 is no time"),
        ("20:60-06:00", "20:60 is no time"),
        ("24:01-06:00", "24:01 is no time"),
        ("24:00-06:00", 'write "00:00"'),
        ("08:00-08:00", "leave hours out"),
    ],
)
def test_hours_that_are_none_are_refused_in_words(text, words):
    with pytest.raises(PolicyError) as caught:
        policy(f'hours = "{text}"')
    assert str(caught.value).startswith("policy.toml: rules.hours: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["8:00 - 17:30", "00:00-24:00", "22:00-00:00", " 20:00-06:00 "])
def test_hours_may_be_written_as_people_write_them(text):
    assert policy(f'hours = "{text}"').rules.hours == text


# --- faults ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("minimum-cohort = 0", ["rules.minimum-cohort", "0 is not allowed"]),
        ("minimum-cohort = true", ["rules.minimum-cohort", "true"]),
        ("minimum-cohort = 2.0", ["rules.minimum-cohort", "2.0"]),
        ('require-secure-aggregation = "no"', ["rules.require-secure-aggregation", "no"]),
        ("allow-without-privacy = 1", ["rules.allow-without-privacy", "1"]),
        ("models = []", ["rules.models", "at least 1"]),
        ('models = ["mpl"]', ["rules.models", "'mpl'", ", ".join(MODEL_NAMES)]),
        ('models = "mlp"', ["rules.models"]),
        ('device = "gpu"', ["rules.device", '"gpu"', "cuda"]),
        ("minimum-sites = 3", ["rules.minimum-sites", "docs/site-policy.md"]),
    ],
)
def test_a_fault_is_named_with_key_and_value(text, words):
    with pytest.raises(PolicyError) as caught:
        policy(text)
    assert not type(caught.value).may_leave_site
    for word in words:
        assert word in str(caught.value)


# --- docs/site-policy.md ---------------------------------------------------------------------


def page():
    return (Path(__file__).parents[2] / "docs" / "site-policy.md").read_text(encoding="utf-8")


def test_the_example_in_the_documentation_is_a_policy():
    example = page().partition("```toml\n")[2].partition("```")[0]
    rules = parse_policy(example, origin="docs").rules
    assert set(Rules.model_fields) == rules.model_fields_set


def test_every_rule_is_documented_with_its_default():
    section = page().partition("## `[rules]`")[2]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (\S+) \|", section, re.MULTILINE))
    assert rows == {
        "minimum-cohort": "3",
        "require-secure-aggregation": "true",
        "allow-without-privacy": "false",
        "allow-burned-in-annotation": "false",
        "models": "all",
        "hours": "always",
        "device": '`"auto"`',
    }
    assert set(rows) == {name.replace("_", "-") for name in Rules.model_fields}
    for model in MODEL_NAMES:
        assert f"`{model}`" in section
