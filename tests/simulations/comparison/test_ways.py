import pytest

from wardround_shared.errors import StudyError
from wardround_shared.study import parse_study, study_text
from wardround_simulations.comparison.ways import at_one_place, studies_of, ways_of

PRIVATE_FORM = "\n[private.training]\nlearning-rate = 0.5\n"


def not_private(study_file, more=""):
    text = study_file.read_text()
    study_file.write_text(text.replace('mechanism = "dp-sgd"', 'mechanism = "none"') + more)
    return study_file


def test_a_private_study_is_trained_in_both_forms(study_file):
    study_file.write_text(study_file.read_text() + PRIVATE_FORM)
    studies = studies_of(study_file, ["training.rounds=7"])
    assert not studies.plain.privacy.private
    assert studies.plain.training.learning_rate == 0.2
    assert studies.private.privacy.private
    assert studies.private.training.learning_rate == 0.5
    assert (studies.plain.training.rounds, studies.private.training.rounds) == (7, 7)


def test_a_study_without_privacy_has_no_private_row(study_file):
    studies = studies_of(not_private(study_file), [])
    assert studies.private is None
    assert "no settings for private training" in studies.why_not
    assert [way.key for way in ways_of(studies, {"north": "north"})] == [
        *("pooled", "alone/north", "federated")
    ]


def test_a_study_without_privacy_but_with_private_settings_has_one(study_file):
    studies = studies_of(not_private(study_file, PRIVATE_FORM), [])
    assert studies.private.training.learning_rate == 0.5
    assert ways_of(studies, {})[-1].title == "federated, epsilon 8"


def test_privacy_can_be_left_out(study_file):
    studies = studies_of(study_file, ["privacy.mechanism=none"])
    assert studies.private is None
    assert "--set" in studies.why_not


def test_a_fault_of_the_private_form_is_refused(study_file):
    not_private(study_file, "\n[private.training]\nbatch-size = 0\n")
    with pytest.raises(StudyError, match=r"private\.training\.batch-size"):
        studies_of(study_file, [])


def test_one_place_trains_as_the_sites_do_and_steps_as_nobody(study_file):
    study_file.write_text(
        study_file.read_text().replace(
            "rounds = 3",
            'rounds = 3\nstrategy = "fedprox"\nproximal = 0.1\nserver-learning-rate = 0.5\n'
            "average-last = 2\nlocal-epochs = 4",
        )
    )
    plain = studies_of(study_file, []).plain
    single = at_one_place(plain)
    same = {"rounds", "local_epochs", "batch_size", "optimiser", "learning_rate", "average_last"}
    for key in same:
        assert getattr(single.training, key) == getattr(plain.training, key)
    assert (single.training.strategy, single.training.proximal) == ("fedavg", 0.0)
    assert single.training.server_learning_rate == 1.0
    assert (single.aggregation.secure, single.aggregation.minimum_sites) == (False, 1)
    assert single.data == plain.data
    assert single.preprocessing == plain.preprocessing
    # The run folder keeps it as text.
    assert parse_study(study_text(single), origin="kept").study_id == single.study_id


def test_at_one_place_scaffold_is_plain_training_of_as_many_steps(study_file):
    drifting = ["training.strategy=scaffold", "training.local-steps=4", "training.momentum=0"]
    pooled, *_, federated = ways_of(studies_of(not_private(study_file), drifting), {})
    assert (pooled.study.training.strategy, pooled.study.training.local_steps) == ("fedavg", 4)
    assert federated.study.training.strategy == "scaffold"
    assert pooled.passes is federated.passes is None
