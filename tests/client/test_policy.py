"""What a policy file may say, which cap follows from it, and the sentence for what it may not."""

import pytest

from wardround_client.ledger import Cap
from wardround_client.policy import TEMPLATE, Policy, load_policy, parse_policy
from wardround_shared.errors import PolicyError

SHARED = """
[privacy]
epsilon = 6
[data-sets.ecg]
population = "cardiology"
[data-sets.echo]
population = "cardiology"
epsilon = 2.5
[data-sets.lungs]
delta = 1e-7
"""


def test_the_template_is_what_holds_without_a_file():
    assert parse_policy(TEMPLATE, origin="policy.toml") == Policy()
    assert Policy().cap_of("anything") == Cap(epsilon=8.0, delta=1e-5)


def test_the_example_in_the_template_can_be_uncommented():
    head, _, example = TEMPLATE.partition("# [data-sets")
    example = "\n".join(line.removeprefix("# ") for line in f"# [data-sets{example}".splitlines())
    policy = parse_policy(head + example, origin="policy.toml")
    assert policy.cap_of("chest-xray") == Cap(epsilon=4.0, delta=1e-5)
    assert policy.population_of("chest-xray") == "emergency-department"


def test_an_empty_file_allows_what_the_template_does():
    assert parse_policy("", origin="policy.toml") == Policy()


def test_a_population_has_one_cap_whichever_data_set_says_it():
    policy = parse_policy(SHARED, origin="policy.toml")
    for data_set in ("ecg", "echo"):
        assert policy.population_of(data_set) == "cardiology"
        assert policy.cap_of(data_set) == Cap(epsilon=2.5, delta=1e-5)
    assert policy.cap_of_population("cardiology") == Cap(epsilon=2.5, delta=1e-5)


def test_a_data_set_is_a_population_of_its_own_unless_told_otherwise():
    policy = parse_policy(SHARED, origin="policy.toml")
    assert policy.population_of("lungs") == "lungs"
    assert policy.cap_of("lungs") == Cap(epsilon=6.0, delta=1e-7)
    assert policy.population_of("unknown") == "unknown"
    assert policy.cap_of("unknown") == Cap(epsilon=6.0, delta=1e-5)


def test_a_data_set_that_is_named_like_a_population_belongs_to_it():
    policy = parse_policy(SHARED, origin="policy.toml")
    assert policy.cap_of("cardiology") == policy.cap_of("echo")


@pytest.mark.parametrize("key", ["epsilon", "delta"])
def test_two_data_sets_of_one_population_must_not_contradict_each_other(key):
    text = '[data-sets.{}]\npopulation = "p"\n{} = {}\n'
    same = text.format("a", key, 0.5) + text.format("b", key, 0.5)
    assert parse_policy(same, origin="policy.toml").cap_of("a") == Policy.of(
        **{"epsilon": 8.0, "delta": 1e-5} | {key: 0.5}
    ).cap_of("a")
    with pytest.raises(PolicyError, match=rf"policy.toml: data-sets.b.{key}: 0.25 contradicts 0.5"):
        parse_policy(text.format("a", key, 0.5) + text.format("b", key, 0.25), origin="policy.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[privacy]\nepsilonn = 1", ["privacy.epsilonn", "no such key"]),
        ("[privcy]\nepsilon = 1", ["privcy", "no such key"]),
        ("[privacy]\nepsilon = 0", ["privacy.epsilon", "0 is not allowed", "greater than 0"]),
        ("[privacy]\nepsilon = -1.5", ["privacy.epsilon", "-1.5"]),
        ("[privacy]\nepsilon = nan", ["privacy.epsilon", "finite"]),
        ("[privacy]\nepsilon = inf", ["privacy.epsilon", "finite"]),
        ("[privacy]\nepsilon = 5e-324", ["privacy.epsilon", "as good as zero"]),
        ("[privacy]\nepsilon = 'eight'", ["privacy.epsilon", '"eight"', "number"]),
        ("[privacy]\ndelta = 1", ["privacy.delta", "less than 1"]),
        ("[privacy]\ndelta = 1e-310", ["privacy.delta", "as good as zero"]),
        ("[data-sets.ecg]\nepsilon = 0", ["data-sets.ecg.epsilon", "0"]),
        ("[data-sets.ecg]\npatients = 'x'", ["data-sets.ecg.patients", "no such key"]),
        ("[data-sets.ecg]\npopulation = ''", ["data-sets.ecg.population", "at least 1"]),
        ('[data-sets.ecg]\npopulation = "a\\u001bb"', ["population", "printable"]),
        ("data-sets = 3", ["data-sets", "3"]),
        ("[privacy", ["not a TOML file"]),
    ],
)
def test_a_fault_is_named_with_file_key_and_value(tmp_path, text, words):
    file = tmp_path / "policy.toml"
    file.write_text(text)
    with pytest.raises(PolicyError) as caught:
        load_policy(file)
    for word in [str(file), *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path / "policy.toml")


def test_what_a_policy_says_stays_at_the_site():
    assert not PolicyError.may_leave_site


@pytest.mark.parametrize("section", ["privacy", "data-sets.heart"])
@pytest.mark.parametrize("value", ['"8"', '"1e-5"', "true", "[8]"])
@pytest.mark.parametrize("key", ["epsilon", "delta"])
def test_a_number_is_written_as_one(section, key, value):
    with pytest.raises(PolicyError, match=f"policy.toml: {section}.{key}: "):
        parse_policy(f"[{section}]\n{key} = {value}\n", origin="policy.toml")


def test_an_integer_is_a_number():
    policy = parse_policy("[privacy]\nepsilon = 8\n", origin="policy.toml")
    assert policy.cap_of("heart").epsilon == 8.0
