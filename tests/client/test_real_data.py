"""The data sets of the shipped studies, each through the data section of its study."""

from collections import Counter

import numpy as np
import pytest

from wardround_client.cohort import build_cohorts

HEART = """
[data]
source = "table"
table = ["processed.*.data"]
header = false
columns = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang",
  "oldpeak", "slope", "ca", "thal", "num"]
missing = ["?", ""]
label = { column = "num", values = { absent = ["0"], present = ["1", "2", "3", "4"] } }
site = { file = 'processed\\.(\\w+)\\.data' }
features = [
  { column = "age" },
  { column = "sex", kind = "categorical", categories = ["0", "1"] },
  { column = "cp", kind = "categorical", categories = ["1", "2", "3", "4"] },
  { column = "trestbps", missing = ["0"] },
  { column = "chol", missing = ["0"] },
  { column = "fbs", kind = "categorical", categories = ["0", "1"] },
  { column = "restecg", kind = "categorical", categories = ["0", "1", "2"] },
  { column = "thalach" },
  { column = "exang", kind = "categorical", categories = ["0", "1"] },
  { column = "oldpeak" },
]
"""

CHEST = """
[data]
source = "images"
table = ["labels.csv"]
file = "file"
label = { column = "label" }
patient = "patient"
site = { column = "site" }
"""

PNEUMONIA = """
[data]
source = "images"
arrays = ["*.npz"]
images = "*images"
label = { column = "*labels", values = { normal = ["0"], pneumonia = ["1"] } }
"""

CT = """
[data]
source = "dicom"
table = ["overview.csv"]
file = "dicom_name"
folder = "dicom_dir"
label = { column = "Contrast", values = { without = ["False"], with = ["True"] } }
patient = "PatientID"
site = { column = "hospital" }
"""

BEATS = """
[data]
source = "signals"
arrays = ["beats.npz"]
signal = "X"
sampling-rate = 180
join = [{ file = "records.csv", on = "record" }]
where = { paced = ["False"], aami = ["N", "S", "V"] }
label = { column = "aami" }
patient = "subject"
site = { column = "virtual_site" }
static = [
  { column = "rr_prev", missing = ["-1"] },
  { column = "rr_next", missing = ["-1"] },
  { column = "rr_prev", missing = ["-1"], form = "over-patient" },
  { column = "rr_next", missing = ["-1"], form = "over-neighbours" },
]
patient-median = true
"""

RAW_BEATS = """
[data]
source = "wfdb"
table = ["records.csv"]
record = "record"
folder = "raw"
leads = ["MLII"]
annotator = "atr"
where = { raw_included = ["True"], symbol = [
  "N", "L", "R", "e", "j", "A", "a", "J", "S", "V", "E",
] }
patient = "subject"
site = { column = "virtual_site" }
static = [{ column = "rr_prev" }, { column = "rr_next" }, { column = "age" },
  { column = "rr_prev", form = "over-patient" }]
patient-median = true
max-per-patient = 200

[data.label]
column = "symbol"
values = { N = ["N", "L", "R", "e", "j"], S = ["A", "a", "J", "S"], V = ["V", "E"] }
"""

TWELVE_LEADS = """
[data]
source = "wfdb"
table = ["ptbxl_database.csv"]
record = "filename_lr"
leads = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
label = { column = "sex", values = { male = ["0"], female = ["1"] } }
patient = "patient_id"
site = { column = "site" }
"""

ICU = """
[data]
source = "table"
table = ["patient.csv"]
join = [
  { file = "apacheapsvar.csv", on = "patientunitstayid" },
  { file = "hospital.csv", on = "hospitalid" },
]
where = { region = ["Midwest", "Northeast", "South", "West"] }
label = { column = "hospitaldischargestatus", values = { alive = ["Alive"], died = ["Expired"] } }
patient = "uniquepid"
site = { column = "region" }
missing = ["", "-1"]
features = [
  { column = "age", missing = ["> 89"] },
  { column = "gender", kind = "categorical", categories = ["Female", "Male"] },
  { column = "heartrate" },
  { column = "meanbp" },
  { column = "creatinine" },
]
"""

IMPUTE = '[preprocessing]\nsteps = [{ name = "impute" }, { name = "one-hot" }]\n'


def test_heart_disease_has_one_site_per_file_and_marks_of_three_kinds(
    shared_data, study_of, read, tmp_path
):
    study = study_of(HEART, preprocessing=IMPUTE)
    records, aside, _ = read(study, shared_data / "heart-disease-uci")
    assert not aside
    assert Counter(r.site for r in records) == {
        "cleveland": 199,
        "hungarian": 205,
        "switzerland": 107,
        "va": 154,
    }
    positives = Counter(r.site for r in records if r.stratum == 1)
    assert positives == {"cleveland": 91, "hungarian": 73, "switzerland": 100, "va": 113}
    cholesterol = np.array([r.main[4] for r in records if r.site == "switzerland"])
    assert np.isnan(cholesterol).all()
    first = next(r for r in records if r.site == "cleveland")
    np.testing.assert_array_equal(first.main, [63, 1, 0, 145, 233, 1, 2, 150, 0, 2.3])

    cohorts = build_cohorts(
        study, shared_data / "heart-disease-uci", cache=tmp_path, partition=None
    )
    assert [len(c.targets) for c in cohorts.cohorts] == [199, 205, 107, 154]


def test_chest_x_rays_decode_from_two_hospitals(shared_data, study_of, tmp_path):
    study = study_of(
        CHEST,
        classes=("normal", "pneumonia"),
        task="image-classification",
        preprocessing='[preprocessing]\nsteps = [{ name = "resize", size = [32, 32] }]\n',
    )
    cohorts = build_cohorts(study, shared_data / "cxr-2sites", cache=tmp_path, partition=None)
    assert not cohorts.set_aside
    sizes = {c.site: (c.arrays[0].shape, len(np.unique(c.patients))) for c in cohorts.cohorts}
    assert sizes == {"guangzhou": ((240, 1, 32, 32), 220), "nih": ((240, 1, 32, 32), 237)}


def test_pneumonia_arrays_of_both_prefixes_are_examples(shared_data, study_of, read):
    study = study_of(PNEUMONIA, classes=("normal", "pneumonia"), task="image-classification")
    records, aside, _ = read(study, shared_data / "pneumoniamnist")
    assert not aside
    assert Counter(r.stratum for r in records) == {0: 1168 + 131, 1: 3494 + 389}
    assert len({r.patient for r in records}) == len(records)
    with np.load(shared_data / "pneumoniamnist" / "pneumoniamnist_trainval.npz") as file:
        np.testing.assert_array_equal(records[-1].main, file["val_images"][-1])


def test_ct_slices_are_in_hounsfield_units(shared_data, study_of, read):
    study = study_of(CT, classes=("without", "with"), task="image-classification")
    records, aside, notes = read(study, shared_data / "ct-tcga-dicom")
    assert (len(records), aside, notes) == (66, [], ())
    assert len({r.patient for r in records}) == 42
    assert all(r.main.shape == (512, 512) and r.main.dtype == np.float32 for r in records)
    # Soft tissue lies at 0 to 100 HU in every scanner once the rescale has been applied.
    share = [((r.main > -150) & (r.main < 200)).mean() for r in records]
    assert min(share) > 0.05
    assert all(r.main.max() > 200 for r in records)


def test_beats_take_patient_and_site_from_the_joined_table(shared_data, study_of, read):
    study = study_of(BEATS, classes=("N", "S", "V"), task="signal-classification")
    records, aside, notes = read(study, shared_data / "ecg-mitbih")
    assert not aside
    assert {r.site for r in records} == {f"H{i}" for i in range(1, 7)}
    assert set(Counter(r.stratum for r in records)) == {0, 1, 2}
    assert records[0].main.shape == (2, 140)
    statics = np.array([r.static for r in records])
    assert statics.shape[1] == 4
    assert np.nanmin(statics) > 0
    assert 0.9 < np.nanmedian(statics[:, 2]) < 1.1
    assert any("data.where" in note for note in notes)


def test_raw_records_give_the_same_beats_as_the_prepared_arrays(shared_data, study_of, read):
    study = study_of(RAW_BEATS, classes=("N", "S", "V"), task="signal-classification")
    records, aside, _ = read(study, shared_data / "ecg-mitbih")
    assert {a.reason for a in aside} <= {"the window around the beat reaches beyond the record"}
    assert max(Counter(r.patient for r in records).values()) == 200
    assert all(r.main.shape == (2, 288) and r.sampling_rate == 360 for r in records)
    with np.load(shared_data / "ecg-mitbih" / "beats.npz") as file:
        intervals = {
            f"{name}@{at}": (before, after)
            for name, at, before, after in zip(
                file["record"], file["sample"], file["rr_prev"], file["rr_next"], strict=True
            )
        }
    lines = (shared_data / "ecg-mitbih" / "records.csv").read_text().splitlines()
    compared = 0
    for record in records:
        line, at = record.key.removeprefix("records.csv:").split("@")
        expected = intervals.get(f"{lines[int(line) - 1].split(',')[0]}@{at}")
        if expected is not None and -1 not in expected:
            np.testing.assert_allclose(record.static[:2], np.array(expected) / 360, atol=1e-5)
            compared += 1
    assert compared > 900


def test_twelve_leads_come_in_the_order_of_the_study(shared_data, study_of, read):
    study = study_of(TWELVE_LEADS, classes=("male", "female"), task="signal-classification")
    records, aside, _ = read(study, shared_data / "ecg-ptbxl")
    assert (len(records), aside) == (353, [])
    assert Counter(r.site for r in records) == {"0": 169, "1": 130, "2": 11, "3": 43}
    assert all(r.main.shape == (12, 1000) and r.sampling_rate == 100 for r in records)
    # Einthoven: lead II is the sum of leads I and III, to the resolution of the recorder.
    lead_1, lead_2, lead_3 = records[0].main[:3]
    np.testing.assert_allclose(lead_2, lead_1 + lead_3, atol=0.005)


def test_icu_stays_join_three_tables(shared_data, study_of, read):
    study = study_of(ICU, classes=("alive", "died"))
    records, aside, notes = read(study, shared_data / "icu-eicu-demo")
    assert Counter(r.site for r in records + aside) == {
        "Midwest": 640,
        "South": 539,
        "West": 470,
        "Northeast": 107,
    }
    assert {a.reason for a in aside} == {"no label"}
    assert any("apacheapsvar.csv" in note and "no match" in note for note in notes)
    rates = np.array([r.main[2] for r in records])
    assert 60 < np.nanmedian(rates) < 130
    assert np.nanmin(rates) >= 0


@pytest.mark.parametrize("name", ["heart-disease-uci", "icu-eicu-demo"])
def test_no_patient_of_real_data_is_on_both_sides(name, shared_data, study_of, tmp_path):
    text, classes = (HEART, ("absent", "present")) if "heart" in name else (ICU, ("alive", "died"))
    study = study_of(text, classes=classes, preprocessing=IMPUTE)
    for cohort in build_cohorts(study, shared_data / name, cache=tmp_path, partition=None).cohorts:
        train, validation = cohort.patients[cohort.train], cohort.patients[cohort.validation]
        assert not set(train.tolist()) & set(validation.tolist())
        share = len(np.unique(validation)) / len(np.unique(cohort.patients))
        assert 0.08 < share < 0.35
