"""Everything that a study takes from patients and no epsilon covers is said, and nothing else."""

from wardround_shared.study import NOT_PRIVATE, disclosures, load_study, unprotected
from wardround_simulations.options import find_study


def told(name, *overrides):
    study = load_study(find_study(name), ["privacy.mechanism=dp-sgd", *overrides])
    return disclosures(study)


def words(name, *overrides):
    return " / ".join(one.what for one in told(name, *overrides))


def test_class_counts_are_named_where_the_loss_needs_them_only():
    assert "class counts" in words("heart-disease", "training.class-weights=balanced")
    assert "class counts" not in words("heart-disease", "training.class-weights=none")


def test_each_fitted_step_is_named():
    steps = "preprocessing.steps=[{name='impute'}, {name='one-hot'}]"
    assert "sums behind impute" in words("heart-disease", steps)
    assert "standardise" not in words("heart-disease", steps)
    assert "sums behind standardise" in words("pneumonia")
    matching = "preprocessing.steps=[{name='match-histogram'}]"
    assert "sums behind match-histogram: percentiles of each image" in words("phantom", matching)


def test_every_study_counts_examples_and_metrics():
    for name in ("heart-disease", "pneumonia", "arrhythmia", "phantom"):
        assert "number of training examples" in words(name)
        assert "metric counts" in words(name)


def test_the_number_of_patients_is_named_where_the_noise_depends_on_it():
    assert "number of training patients" in words("phantom")
    assert "number of training records" in words("phantom", "privacy.unit=record")
    assert "number of training patients" not in words("phantom", "privacy.mechanism=none")


def test_how_exact_it_is_follows_from_the_aggregation():
    (secure,) = {one.form for one in told("phantom") if "metric counts" in one.what}
    (clear,) = {
        one.form for one in told("phantom", "aggregation.secure=false") if "metric" in one.what
    }
    assert "sum over sites only" in secure
    assert "each site by itself" in clear


def test_a_study_without_patient_keys_says_that_records_count_as_patients():
    assert "each record counts as a patient" in words("pneumonia")
    assert "each record counts as a patient" not in words("arrhythmia")
    assert "each record counts as a patient" not in words("pneumonia", "privacy.unit=record")


def test_features_made_of_other_records_are_outside_a_records_epsilon_and_inside_a_patients():
    assert "compared with" in words("arrhythmia", "privacy.unit=record")
    assert "compared with" not in words("arrhythmia")
    form = "data.static=[{column='Age', form='over-patient'}]"
    assert "compared with" in words("ct-fusion", "privacy.unit=record", form)


def test_without_privacy_the_update_itself_is_disclosed():
    open_study = load_study(find_study("phantom"), ["privacy.mechanism=none"])
    assert "nothing bounds" in disclosures(open_study)[-1].purpose


def test_a_moment_in_several_windows_is_outside_a_records_epsilon_and_inside_a_patients():
    overlap = "data.windows={length=10.0, stride=5.0}"
    study = "eeg-mental-arithmetic"
    assert "in several windows" in words(study, overlap, "privacy.unit=record")
    assert "in several windows" not in words(study, overlap)
    assert "in several windows" not in words(study, "privacy.unit=record")


def test_a_model_that_protects_nobody_says_so_and_why():
    private = load_study(find_study("phantom"), ["privacy.mechanism=dp-sgd"])
    plain = load_study(find_study("phantom"), ["privacy.mechanism=none"])
    assert unprotected(private, "system") == ""
    assert "injected for a test" in unprotected(private, "injected")
    assert unprotected(plain, "system") == unprotected(plain, "injected") == NOT_PRIVATE


def test_with_scaffold_all_sites_are_told_when_each_was_counted():
    scaffold = [
        "training.strategy=scaffold",
        "training.local-steps=5",
        "training.local-epochs=1",
        "training.momentum=0",
        "training.optimiser=sgd",
    ]
    study = load_study(find_study("phantom"), scaffold)
    told = [one for one in disclosures(study) if "counted last" in one.what]
    assert ["to all sites" in one.form for one in told] == [True]
    plain = load_study(find_study("phantom"))
    assert not [one for one in disclosures(plain) if "counted last" in one.what]
