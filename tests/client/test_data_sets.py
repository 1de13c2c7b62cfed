"""Data sets are named once; a check counts what a study would use, and why not the rest."""

from pathlib import Path

import numpy as np
import pytest
from dicom_files import RAMP
from dicom_files import write as write_dicom
from hospitals import STUDY

from wardround_client.cohort import build_cohorts
from wardround_client.data_sets import SOURCES, DataSet, DataSets, check, cohort_for
from wardround_client.rules import Rules
from wardround_shared.errors import CohortError, DataError
from wardround_shared.study import parse_study

HEADER = "patient,age,pressure,sex,finding"


def study(*overrides):
    return parse_study(STUDY, origin="test", overrides=overrides)


def write(folder, rows, name="ward.csv", header=HEADER):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return DataSet(path=folder, source="table")


def people(count, *, start=0, per_patient=2):
    return [
        f"p{who},{40 + who},{120 + visit},{'fm'[who % 2]},{('absent', 'present')[who // 2 % 2]}"
        for who in range(start, start + count)
        for visit in range(per_patient)
    ]


@pytest.fixture
def data_sets(tmp_path):
    return DataSets(tmp_path / "data.toml")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


# --- names -----------------------------------------------------------------------------------


def test_a_data_set_is_found_again_by_its_name(data_sets, tmp_path, monkeypatch):
    (tmp_path / "ecg").mkdir()
    monkeypatch.chdir(tmp_path)
    added = data_sets.add("ecg", Path("ecg"), "wfdb")
    assert added == DataSet(path=tmp_path / "ecg", source="wfdb")
    data_sets.add("echo-2", tmp_path / "ecg", "dicom")
    again = DataSets(tmp_path / "data.toml")
    assert again.get("ecg") == added
    assert set(again.all()) == {"ecg", "echo-2"}


def test_a_name_is_never_given_to_other_data(data_sets, tmp_path):
    data_sets.add("ecg", tmp_path, "wfdb")
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="already"):
        data_sets.add("ecg", tmp_path / "other", "wfdb")
    assert data_sets.get("ecg").path == tmp_path


@pytest.mark.parametrize("name", ["", "ECG", "a/b", "../a", "a b", "-a", "a" * 65, "a.b"])
def test_a_name_that_is_none_is_refused(data_sets, tmp_path, name):
    with pytest.raises(DataError, match="data set's name"):
        data_sets.add(name, tmp_path, "table")
    assert data_sets.all() == {}


def test_data_have_to_be_there_and_of_a_known_kind(data_sets, tmp_path):
    with pytest.raises(DataError, match=r"nothing: there is no such folder"):
        data_sets.add("ecg", tmp_path / "nothing", "wfdb")
    with pytest.raises(DataError, match=", ".join(SOURCES)):
        data_sets.add("ecg", tmp_path, "excel")


def test_an_unknown_name_lists_the_known_ones(data_sets, tmp_path):
    with pytest.raises(DataError, match="there is none yet"):
        data_sets.get("ecg")
    data_sets.add("echo", tmp_path, "dicom")
    with pytest.raises(DataError, match="there are echo; add it"):
        data_sets.get("ecg")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[data-sets.ecg", "this is not a TOML file"),
        ("[data-sets.ecg]\nsource = 'table'", "data-sets.ecg.path"),
        ("[data-sets.ecg]\nsource = 'table'\npath = '/x'\nsites = 3", "data-sets.ecg.sites"),
        ("[data-sets.ECG]\nsource = 'table'\npath = '/x'", "data-sets.ECG"),
    ],
)
def test_a_file_that_was_spoilt_by_hand_is_one_sentence(data_sets, tmp_path, text, words):
    (tmp_path / "data.toml").write_text(text)
    with pytest.raises(DataError) as caught:
        data_sets.all()
    assert str(caught.value).startswith(str(tmp_path / "data.toml"))
    assert words in str(caught.value)


# --- the cohort of a hospital ------------------------------------------------------------------


def test_a_hospital_has_one_cohort_under_its_own_name(tmp_path, cache):
    ward = write(tmp_path / "ward", people(20))
    write(tmp_path / "ward", people(10, start=20), name="clinic.csv")
    cohort = cohort_for(study(), ward, site="St. Mary", cache=cache)
    assert cohort.site == "St. Mary"
    assert len(cohort.targets) == 60
    assert len(np.unique(cohort.patients)) == 30


def test_the_cohort_is_that_which_a_simulation_gives_the_same_hospital(tmp_path, cache):
    everyone, alone = tmp_path / "everyone", tmp_path / "alone"
    write(everyone, people(20), name="north.csv")
    write(everyone, people(30, start=20), name="south.csv")
    south = write(alone, people(30, start=20), name="south.csv")
    simulated = build_cohorts(study(), everyone, cache=cache).cohorts[1]
    real = cohort_for(study(), south, site="south", cache=cache)
    assert simulated.site == real.site == "south"
    for name in ("targets", "patients", "train", "validation"):
        np.testing.assert_array_equal(getattr(simulated, name), getattr(real, name))
    np.testing.assert_array_equal(simulated.arrays[0], real.arrays[0])


@pytest.mark.parametrize(
    "key", ['{column="hospital"}', "{folder=true}", "{file='processed[.](.+)'}"]
)
def test_a_site_key_that_the_hospitals_data_do_not_have_does_not_matter(tmp_path, cache, key):
    ward = write(tmp_path / "ward", people(8))
    cohort = cohort_for(study(f"data.site={key}"), ward, site="north", cache=cache)
    assert len(cohort.targets) == 16
    assert cohort.set_aside == 0


def test_a_patient_under_two_site_keys_is_one_of_this_hospital(tmp_path, cache):
    ward = write(tmp_path / "ward", people(4), name="north.csv")
    write(tmp_path / "ward", people(4), name="south.csv")
    with pytest.raises(CohortError, match="two sites"):
        build_cohorts(study(), ward.path, cache=cache)
    assert len(cohort_for(study(), ward, site="north", cache=cache).targets) == 16


def test_another_site_and_a_simulation_have_caches_of_their_own(tmp_path, cache):
    ward = write(tmp_path / "ward", people(8), name="north.csv")
    folders = {cohort_for(study(), ward, site=site, cache=cache).folder for site in ("a", "north")}
    folders.add(build_cohorts(study(), ward.path, cache=cache).cohorts[0].folder)
    assert len(folders) == 3


def test_a_second_call_opens_no_patient_file(tmp_path, cache):
    ward = write(tmp_path / "ward", people(8))
    first = cohort_for(study(), ward, site="north", cache=cache)
    (ward.path / "ward.csv").chmod(0)
    try:
        assert cohort_for(study(), ward, site="north", cache=cache).folder == first.folder
    finally:
        (ward.path / "ward.csv").chmod(0o600)


def test_data_of_another_kind_are_refused_in_words(tmp_path, cache):
    write(tmp_path / "ward", people(8))
    images = DataSet(path=tmp_path / "ward", source="images")
    for use in (check, cohort_for):
        with pytest.raises(DataError, match=r"kind table, and the data set holds images"):
            use(study(), images, site="north", cache=cache)


# --- the check ---------------------------------------------------------------------------------


def test_a_check_counts_patients_examples_and_classes(tmp_path, cache):
    ward = write(tmp_path / "ward", people(40))
    report = check(study("training.batch-size=4"), ward, site="north", cache=cache)
    assert report.readable == 80
    assert report.training.examples + report.validation.examples == 80
    assert report.training.patients + report.validation.patients == 40
    assert report.training.examples == 2 * report.training.patients
    for name in ("absent", "present"):
        assert report.training.classes[name] + report.validation.classes[name] == 40
    assert report.protected == report.training.patients
    assert (report.problems, report.notes, report.set_aside) == ((), (), {})


def test_a_check_says_what_is_left_out_and_why(tmp_path, cache):
    spoilt = ["x1,old,120,f,absent", "x2,older,120,f,absent", "x3,40,120,f,", "x4,40,1"]
    ward = write(tmp_path / "ward", [*people(100), *spoilt])
    report = check(study("training.batch-size=4"), ward, site="north", cache=cache)
    assert report.readable == 200
    assert report.set_aside == {
        "column age holds no finite number": 2,
        "no label": 1,
        "the row has too few or too many cells": 1,
    }
    assert report.problems == ()


def test_a_label_that_is_no_class_is_the_problem(tmp_path, cache):
    ward = write(tmp_path / "ward", [*people(4), "x3,40,120,f,perhaps"])
    report = check(study(), ward, site="north", cache=cache)
    assert "'perhaps'" in report.problems[0]
    assert report.training is None


def test_a_check_counts_also_what_cannot_be_used(tmp_path, cache):
    ward = write(tmp_path / "ward", [*people(4), *[f"x{i},old,120,f,absent" for i in range(5)]])
    report = check(study(), ward, site="north", cache=cache)
    assert (report.training, report.validation, report.protected) == (None, None, None)
    assert (report.readable, report.set_aside) == (8, {"column age holds no finite number": 5})
    (problem,) = report.problems
    assert "5 of 13 examples cannot be used" in problem
    assert list(cache.iterdir()) == []


def test_a_check_of_nothing_usable_says_so(tmp_path, cache):
    ward = write(tmp_path / "ward", ["x1,old,120,f,absent"])
    report = check(study("data.unreadable-share=1.0"), ward, site="north", cache=cache)
    assert report.readable == 0
    assert report.problems[0].startswith("No example is left")


def test_the_policy_says_whether_text_burned_into_images_is_read(tmp_path, cache):
    scans = tmp_path / "scans"
    scans.mkdir()
    said = ["NO", "YES", "NO", "NO"]
    for number, word in enumerate(said):
        write_dicom(scans / f"{number}.dcm", RAMP, bits=8, BurnedInAnnotation=word)
    rows = [f"{n}.dcm,{('absent', 'present')[n % 2]},p{n}" for n in range(4)]
    (scans / "labels.csv").write_text("\n".join(["file,finding,patient", *rows]))
    text = (
        STUDY[: STUDY.index("[data]")].replace("tabular", "image")
        + '[data]\nsource = "dicom"\ntable = ["labels.csv"]\nfile = "file"\npatient = "patient"\n'
        'label = { column = "finding" }\n[simulation]\nallow-burned-in-annotation = true\n'
        + STUDY[STUDY.index("[model]") :].partition("[simulation]")[0]
    )
    asked, ward = parse_study(text, origin="test"), DataSet(path=scans, source="dicom")
    reason = "the DICOM file says that text is burned into the image"
    # Whatever the study says of simulations, and also where nobody says what the policy is.
    assert check(asked, ward, site="north", cache=cache).set_aside == {reason: 1}
    open_ = Rules(**{"allow-burned-in-annotation": True})
    report = check(asked, ward, site="north", cache=cache, rules=open_)
    assert (report.readable, report.set_aside) == (4, {})
    # The cohort that was read under the one policy is not taken under the other.
    assert len(cohort_for(asked, ward, site="north", cache=cache, rules=open_).targets) == 4
    assert len(cohort_for(asked, ward, site="north", cache=cache, rules=Rules()).targets) == 3


def test_images_that_differ_in_size_are_counted_as_well(tmp_path, cache):
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate([(8, 8), (9, 8)]):
        Image.fromarray(np.zeros(size, np.uint8)).save(folder / f"{number}.png")
    (folder / "labels.csv").write_text("file,finding\n0.png,present\n1.png,absent\n2.png,absent\n")
    text = (
        STUDY[: STUDY.index("[data]")].replace("tabular", "image")
        + '[data]\nsource = "images"\ntable = ["labels.csv"]\nfile = "file"\n'
        'label = { column = "finding" }\n' + STUDY[STUDY.index("[model]") :]
    )
    images = DataSet(path=folder, source="images")
    report = check(parse_study(text, origin="test"), images, site="north", cache=cache)
    assert "add a resize" in report.problems[0]
    assert report.readable == 2
    assert sum(report.set_aside.values()) == 1


def test_what_keeps_a_study_from_running_is_a_problem(tmp_path, cache):
    ward = write(tmp_path / "ward", people(40))
    small = study("aggregation.secure=true", "aggregation.largest-cohort=10")
    assert "aggregation.largest-cohort" in check(small, ward, site="a", cache=cache).problems[0]
    greedy = study("privacy.epsilon=0.0001", "training.rounds=100000")
    (problem,) = check(greedy, ward, site="a", cache=cache).problems
    assert "epsilon" in problem


def test_what_a_person_should_know_is_a_note(tmp_path, cache):
    sick = [row.replace("absent", "present") for row in people(10)]
    ward = write(tmp_path / "ward", sick)
    notes = " ".join(check(study(), ward, site="north", cache=cache).notes)
    assert "one class only: present" in notes
    assert "a step takes 16" in notes


def test_without_a_patient_key_nobody_is_counted_as_a_patient(tmp_path, cache):
    ward = write(tmp_path / "ward", people(10))
    unnamed = parse_study(STUDY.replace('patient = "patient"\n', ""), origin="test")
    report = check(unnamed, ward, site="north", cache=cache)
    assert report.training.patients is None
    assert any("names no patient" in note for note in report.notes)


def test_a_missing_column_is_an_error_and_no_report(tmp_path, cache):
    ward = write(tmp_path / "ward", ["p1,absent"], header="patient,finding")
    with pytest.raises(DataError, match="no column 'age'"):
        check(study(), ward, site="north", cache=cache)
