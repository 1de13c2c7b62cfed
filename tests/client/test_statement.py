"""Before a study is approved, a person reads what it does; nothing of that is left out."""

import pytest

from wardround_client.account import plan
from wardround_client.ledger import Cap, Ledger, Purpose
from wardround_client.policy import parse_policy
from wardround_client.statement import Circumstances, lines_of, statement
from wardround_shared.errors import PrivacyError
from wardround_shared.privacy.accounting import SampledGaussian, epsilon_spent
from wardround_shared.study import disclosures, load_study
from wardround_simulations.options import find_study

POLICY = '[data-sets.ecg]\npopulation = "cardiology"\nepsilon = 6.0\n'
EARLIER = SampledGaussian(noise_multiplier=2.0, sample_rate=0.1, steps=20)
TITLES = (
    "Study",
    "What is computed",
    "What leaves this site",
    "Floors",
    "What is promised to patients",
    "What it costs",
    "What epsilon does not cover",
    "What this site's policy says",
)


def study(*overrides):
    return load_study(find_study("heart-disease"), ("privacy.epsilon=2.0", *overrides))


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger.create(tmp_path / "home", site="north", durable=False)
    opened.reserve(
        EARLIER,
        purpose=Purpose(
            study="earlier",
            study_id="ab" * 32,
            run="r-1",
            round=1,
            data_set="ecg",
            population="cardiology",
            unit="record",
        ),
        cap=Cap(epsilon=6.0, delta=1e-5),
    )
    return opened


def told(asked, *, ledger, protected=400, sites=4, policy=POLICY):
    """Title -> the part's text."""
    circumstances = Circumstances(
        data_set="ecg",
        protected=protected,
        sites=sites,
        policy=parse_policy(policy, origin="policy.toml"),
        ledger=ledger,
    )
    parts = statement(asked, circumstances)
    assert tuple(part.title for part in parts) == TITLES
    return {part.title: "\n".join(part.lines) for part in parts}


def test_the_study_is_named_by_its_whole_id(ledger):
    asked = study()
    assert asked.study_id in told(asked, ledger=ledger)["Study"]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("", "burned in are left out."),
        ("[rules]\nallow-burned-in-annotation = true\n", "are read, "),
    ],
)
def test_whether_text_burned_into_images_is_read_is_said(ledger, rule, words):
    images = load_study(find_study("ct-contrast"))
    assert words in told(images, ledger=ledger, policy=rule)["What is computed"]
    assert "burned" not in told(study(), ledger=ledger, policy=rule)["What is computed"]


def test_what_is_computed_names_the_data_set_and_every_column_that_is_read(ledger):
    text = told(study("data.patient=who"), ledger=ledger)["What is computed"]
    for word in ("20 rounds", "data set ecg", "model mlp", "20% of the patients", "oldpeak", "who"):
        assert word in text


def test_masked_and_in_the_clear_are_told_apart(ledger):
    masked = told(study(), ledger=ledger)["What leaves this site"]
    assert "masked" in masked
    assert "NOT masked" not in masked
    clear = told(study("aggregation.secure=false"), ledger=ledger)
    assert "NOT masked" in clear["What leaves this site"]
    assert "REFUSED" in clear["What this site's policy says"]


@pytest.mark.parametrize(("sites", "words"), [(4, "at least 3 of 4"), (10, "at least 7 of 10")])
def test_the_threshold_is_told_where_the_number_of_sites_is_known(ledger, sites, words):
    text = told(study(), ledger=ledger, sites=sites)["Floors"]
    assert words in text
    assert "fewer than 3 sites" in text
    assert "policy asks for 3" in text
    assert "not known yet" in told(study(), ledger=ledger, sites=None)["Floors"].replace("\n", " ")


def test_an_approval_is_said_to_be_for_one_run(ledger):
    for asked in (study(), study("aggregation.secure=false")):
        assert "An approval is for one run." in told(asked, ledger=ledger)["Floors"]


def test_the_promise_is_in_the_unit_that_is_charged(ledger):
    named = told(study("data.patient=who"), ledger=ledger)["What is promised to patients"]
    assert "Epsilon 2 at delta 1e-05 for each patient" in named
    unnamed = told(study(), ledger=ledger)["What is promised to patients"]
    assert "for each record" in unnamed
    assert "several records is protected less" in unnamed


def test_without_privacy_the_promise_is_none_and_nothing_is_charged(ledger):
    text = told(study("privacy.mechanism=none"), ledger=ledger)
    assert text["What is promised to patients"].startswith("NONE")
    assert "Nothing is charged" in text["What it costs"]
    assert "WITHOUT differential privacy" in text["What epsilon does not cover"]


def test_a_model_of_the_sites_own_is_told_and_paid_for(ledger):
    tuned = told(study("personal.fine-tune-epochs=3"), ledger=ledger)
    assert any("trains the model further for itself, 3 times" in text for text in tuned.values())
    assert not any("for itself" in text for text in told(study(), ledger=ledger).values())
    beside = told(study("personal.ditto=0.1"), ledger=ledger)
    assert any("also trains a model of its own" in text for text in beside.values())


def test_as_many_steps_and_a_control_variate_are_told(ledger):
    drifting = ("training.strategy=scaffold", "training.local-steps=7", "training.momentum=0")
    text = " ".join(told(study(*drifting), ledger=ledger).values())
    assert "in 7 steps." in text
    assert "(its control variate) stays at this site" in " ".join(text.split())


def test_the_cost_is_what_the_ledger_will_charge(ledger):
    asked = study()
    text = told(asked, ledger=ledger)["What it costs"]
    cost = plan(asked, 400).cost_after(0)
    spent = epsilon_spent([EARLIER], 1e-5).epsilon
    together = epsilon_spent([EARLIER, cost], 1e-5).epsilon
    assert "population cardiology, with a cap of epsilon 6 at delta 1e-05" in text
    assert f"Spent so far: {spent:.4g}. With this study: {together:.4g}." in text
    assert f"Left then: {6 - together:.4g}." in text
    assert f"costs epsilon {epsilon_spent([cost], 1e-5).epsilon:.4g}" in text
    assert "REFUSED" not in text
    assert len(ledger.entries()) == 1


def test_a_study_that_does_not_fit_is_refused_in_the_ledgers_own_words(ledger):
    tight = POLICY.replace("6.0", "2.2")
    text = told(study(), ledger=ledger, policy=tight)["What it costs"]
    assert "REFUSED: This site allows epsilon 2.2" in text
    assert "Left then: 0." in text


def test_rounds_of_the_same_study_are_told(ledger, tmp_path):
    asked = study()
    cost = plan(asked, 400).round_cost
    ledger.reserve(
        cost,
        purpose=Purpose(
            study=asked.study.name,
            study_id=asked.study_id,
            run="r-2",
            round=1,
            data_set="ecg",
            population="cardiology",
            unit="record",
        ),
        cap=Cap(epsilon=6.0, delta=1e-5),
    )
    assert "1 rounds of this very study" in told(asked, ledger=ledger)["What it costs"]


def test_before_a_check_and_without_a_ledger_that_is_said(ledger):
    assert (
        "not more than epsilon 2" in told(study(), ledger=ledger, protected=None)["What it costs"]
    )
    assert "no ledger" in told(study(), ledger=None)["What it costs"]


def test_everything_that_epsilon_does_not_cover_is_there(ledger):
    asked = study("training.class-weights=balanced")
    text = told(asked, ledger=ledger)["What epsilon does not cover"]
    assert len(disclosures(asked)) >= 6
    for one in disclosures(asked):
        assert one.what in text
        assert one.form in text


def test_every_rule_of_the_policy_that_is_not_kept_is_there(ledger):
    strict = POLICY + '[rules]\nmodels = ["cnn"]\nminimum-cohort = 9\nhours = "20:00-06:00"\n'
    text = told(study(), ledger=ledger, policy=strict)["What this site's policy says"]
    assert text.count("REFUSED") == 2
    assert "from 20:00 to 06:00" in text
    assert told(study(), ledger=ledger)["What this site's policy says"] == "It allows this study."


def test_a_description_cannot_steer_the_terminal(ledger):
    asked = study('study.description="good\\u001b[2J\\nREFUSED: no"')
    text = told(asked, ledger=ledger)["Study"]
    assert "\x1b" not in text
    assert "good?[2J?REFUSED" in text


def test_plain_lines_have_every_part(ledger):
    parts = statement(
        study(),
        Circumstances(
            data_set="ecg",
            protected=None,
            sites=None,
            policy=parse_policy(POLICY, origin="policy.toml"),
            ledger=ledger,
        ),
    )
    lines = lines_of(parts)
    assert [line for line in lines if line and not line.startswith("  ")] == list(TITLES)
    assert sum(len(part.lines) for part in parts) == sum(line.startswith("  ") for line in lines)


def test_a_ledger_that_was_changed_gives_no_statement(ledger, tmp_path):
    (tmp_path / "home" / "keys" / "ledger.anchor").unlink()
    with pytest.raises(PrivacyError):
        told(study(), ledger=ledger)


def test_of_fhir_records_it_names_what_is_read(ledger):
    computed = told(load_study(find_study("fhir-synthea")), ledger=ledger)["What is computed"]
    for word in ("birth date", "names and addresses never", "haemoglobin", "|444814009", "the id"):
        assert word in computed


def test_of_a_generator_it_says_what_comes_of_it(ledger):
    shipped = find_study("pneumonia-images")
    private = told(load_study(shipped), ledger=ledger)["What is computed"]
    assert "makes images like those of the patients" in private
    assert "copies" not in private
    plain = load_study(shipped, ["privacy.mechanism=none"])
    assert "copies" in told(plain, ledger=ledger)["What is computed"]
