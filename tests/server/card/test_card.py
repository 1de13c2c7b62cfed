"""The model card says what was measured and promised, and no small number of anybody."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_server.card import CARD, card_text, write_card
from wardround_server.card.measured import measured
from wardround_server.card.rounding import rounded
from wardround_server.run_folder import MODEL, RunFolder
from wardround_shared.evaluation import count
from wardround_shared.study import load_study


def counts_of(absent, present, *, seed=0):
    """Counts of so many examples of each class, scored rather well."""
    rng = np.random.default_rng(seed)
    label = np.repeat([0, 1], [absent, present])
    p = 1 / (1 + np.exp(-rng.normal(2 * label - 1, 1)))
    return count(np.stack([1 - p, p], axis=1), label)


def about(patients, absent, present):
    return {
        "patients": patients,
        "train": absent + present - 4,
        "train_patients": patients - 4,
        "validation": 4,
        "validation_patients": patients,
        "classes": {"absent": absent, "present": present},
        "set_aside": {"no label": 3},
        "notes": [],
    }


def summary_of(**changes):
    overall = counts_of(60, 70)
    summary = {
        "run": "runs/trial",
        "rounds": 3,
        "sites": 2,
        "metrics": {"n": 130},
        "counts": {
            "overall": overall.tolist(),
            "per_site": {
                "north": counts_of(57, 67).tolist(),
                "south": counts_of(3, 3).tolist(),
                "east": counts_of(40, 4).tolist(),
            },
        },
        "privacy": {"epsilon": {"north": 7.25, "south": 3.5}},
        "noise": "system",
        "cohorts": {"north": about(124, 57, 67), "south": about(7, 3, 4), "east": about(44, 40, 4)},
        "dropped": [],
    }
    return summary | changes


@pytest.fixture
def folder(tmp_path):
    made = RunFolder.create(tmp_path / "trial")
    made.write_arrays(MODEL, {"p": np.zeros(2, np.float32)}, {"study": "s"})
    return made


@pytest.fixture
def card(folder, study_file):
    return lambda summary, *change: card_text(folder.path, load_study(study_file, change), summary)


def section(text, title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE).group(1)


def row(text, first):
    return next(line for line in text.splitlines() if line.startswith(f"| {first} |"))


@given(st.integers(min_value=0, max_value=10**7))
def test_a_rounded_count_is_never_a_small_exact_one(number):
    shown = rounded(number)
    if number < 10:
        assert shown == "<10"
    else:
        value = int(shown.replace(",", ""))
        assert value % 10 == 0
        assert abs(value - number) <= 5


class TestData:
    def test_counts_of_sites_are_tens_or_hidden(self, card):
        found = section(card(summary_of()), "Data")
        assert row(found, "north") == "| north | 120 | 120 | <10 | 60 | 70 | <10 |"
        assert row(found, "south") == "| south | <10 | <10 | <10 | <10 | <10 | <10 |"

    def test_no_exact_count_is_anywhere(self, card):
        text = card(summary_of())
        for exact in ("124", "57", "67", "44"):
            assert not re.search(rf"\b{exact}\b", section(text, "Data")), exact

    def test_a_real_run_has_sums_only(self, card):
        summary = summary_of(cohorts={})
        del summary["counts"]["per_site"]
        text = card(summary)
        assert "130 validation examples in all" in section(text, "Data")
        assert "sums over sites only" in section(text, "Metrics")
        assert "summary.json" not in section(text, "Limits")

    def test_a_name_does_not_break_the_table(self, card):
        cohorts = {"no|rth\n| x": about(124, 57, 67)}
        assert "| no/rth / x | 120 |" in section(card(summary_of(cohorts=cohorts)), "Data")


class TestMetrics:
    def test_each_has_an_interval_around_it(self, card):
        found = section(card(summary_of()), "Metrics")
        for name in ("accuracy", "auroc", "f1_macro", "sensitivity", "specificity"):
            value, low, high = map(float, re.findall(r"\d\.\d\d", row(found, name)))
            assert low < value < high

    def test_of_fewer_than_ten_examples_nothing_is_shown(self, card, study_file):
        assert measured(load_study(study_file), counts_of(4, 5)) == []
        south = row(section(card(summary_of()), "Metrics"), "south")
        assert south.endswith("| fewer than 10 patients |")
        few = summary_of(counts={"overall": counts_of(3, 5).tolist()})
        assert "no figure is shown" in section(card(few), "Metrics")

    def test_a_site_shows_no_interval_and_no_exact_share(self, card):
        north = row(section(card(summary_of()), "Metrics"), "north")
        assert " to " not in north
        values = [float(value) for value in re.findall(r"\d\.\d\d", north)]
        assert len(values) > 3
        assert all(abs(20 * value - round(20 * value)) < 1e-9 for value in values)

    def test_many_examples_of_a_few_patients_are_not_shown(self, card):
        cohorts = summary_of()["cohorts"]
        cohorts["north"]["validation_patients"] = 1
        north = row(section(card(summary_of(cohorts=cohorts)), "Metrics"), "north")
        assert north.endswith("| fewer than 10 patients |")

    def test_a_share_of_a_small_class_is_not_shown(self, study_file):
        shown = [one.name for one in measured(load_study(study_file), counts_of(40, 4))]
        assert shown == ["accuracy"]

    def test_a_run_without_counts_says_so(self, card):
        assert "nothing was measured" in card(summary_of(counts={"overall": []}))


class TestPrivacy:
    def test_the_largest_epsilon_that_was_spent_is_told(self, card):
        found = section(card(summary_of()), "Privacy")
        assert "epsilon at most 7.25 (spent" in found
        assert "NONE" not in found

    def test_a_run_whose_sites_keep_their_books_tells_the_plan(self, card):
        assert "epsilon at most 8.00 (planned" in card(summary_of(privacy={"epsilon": 8.0}))

    def test_none_is_in_capitals(self, card):
        found = section(card(summary_of(), "privacy.mechanism=none"), "Privacy")
        assert "**NONE.**" in found
        assert "epsilon at most" not in found

    def test_injected_noise_protects_nobody(self, card):
        found = section(card(summary_of(noise="injected for a test")), "Privacy")
        assert "**NONE.**" in found
        assert "epsilon at most" not in found

    def test_updates_in_the_clear_and_foreign_weights_are_told(self, card):
        found = section(card(summary_of(initial_weights={"file": "w.pt"})), "Privacy")
        assert "NOT summed securely" in found
        assert "weights in w.pt" in found
        assert "metric counts on the validation split" in found


def test_it_says_what_is_not_known_by_sex_and_age(card):
    assert "By sex and by age group nothing was measured" in section(card(summary_of()), "Limits")


def test_calibration_is_told_or_why_not(card):
    assert row(section(card(summary_of()), "Calibration"), "present").count("|") == 5
    few = summary_of(counts={"overall": counts_of(15, 80).tolist()})
    assert "Not judged" in section(card(few), "Calibration")


def test_it_is_written_beside_the_model(folder, study_file):
    write_card(folder, load_study(study_file), summary_of())
    text = (folder.path / CARD).read_text()
    assert "not a medical device" in text
    import hashlib

    assert hashlib.sha256((folder.path / MODEL).read_bytes()).hexdigest() in text
