"""From files to examples: known answers of small bundles, and what is refused."""

import json

import bundles
import numpy as np
import pytest
from bundles import a_patient, bundle, condition, encounter, patient, pressure, weight

from wardround_client.cohort import build_cohorts
from wardround_client.sources import open_source
from wardround_client.sources.fhir.faults import Fault
from wardround_shared.errors import CohortError

NAN = np.nan


def test_a_patient_becomes_values_and_days_before_the_third_encounter(ask):
    (record,), aside, notes = ask(bundle(*a_patient()))
    np.testing.assert_array_equal(
        record.main,
        [
            [NAN, 70, 72, NAN],
            [NAN, NAN, 130, NAN],
            [NAN, NAN, NAN, NAN],
            [NAN, -731, -366, 0],
        ],
    )
    assert (record.key, record.patient, record.site, record.target) == ("file 1", "p1", None, 0)
    assert (record.target.dtype, record.target.shape, record.stratum) == (np.int64, (), 0)
    assert record.static is None
    assert not aside
    assert not notes


def test_age_and_sex_are_those_of_the_day(ask):
    (record,), _, _ = ask(bundle(*a_patient()), overrides=['data.static=["sex", "age"]'])
    assert record.static[0] == 0.0
    assert record.static[1] == pytest.approx(32 + 60 / 365.25, abs=0.01)


@pytest.mark.parametrize("gender", [{}, {"gender": "other"}, {"gender": "unknown"}])
def test_another_gender_and_no_birth_date_are_missing(ask, gender):
    person = {key: value for key, value in patient().items() if key not in {"gender", "birthDate"}}
    resources = [person | gender, *a_patient()[1:]]
    (record,), _, _ = ask(bundle(*resources), overrides=['data.static=["sex", "age"]'])
    assert np.isnan(record.static).all()


# --- the patient key -------------------------------------------------------------------------


def test_the_key_may_be_an_identifier_of_a_named_system(ask):
    (record,), _, _ = ask(bundle(*a_patient()), overrides=['data.patient="urn:mrn"'])
    assert record.patient == "MRN-p1"


@pytest.mark.parametrize(
    "identifier",
    [
        [],
        [{"value": "17"}],
        [{"system": "urn:other", "value": "17"}],
        [{"system": "urn:mrn", "value": " "}],
        [{"system": "urn:mrn", "value": "\ud800"}],
        [{"system": "urn:mrn", "value": "1"}, {"system": "urn:mrn", "value": "2"}],
    ],
    ids=ascii,
)
def test_without_one_identifier_of_the_system_there_is_no_key(ask, identifier):
    resources = [patient(identifier=identifier), *a_patient()[1:]]
    _, aside, _ = ask(bundle(*resources), overrides=['data.patient="urn:mrn"'])
    assert [one.reason for one in aside] == [Fault.NO_KEY]


def test_a_patient_may_stand_in_several_files(ask):
    resources = a_patient()
    (whole,), _, _ = ask(bundle(*resources))
    (parts,), aside, _ = ask(bundle(*resources[4:]), bundle(resources[0], *resources[1:4]))
    np.testing.assert_array_equal(parts.main, whole.main)
    assert parts.key == "file 2"
    assert not aside


def test_one_identifier_under_two_ids_is_one_patient(ask):
    first, rest = a_patient(), a_patient("p2")[4:]
    again = patient("p2", identifier=patient()["identifier"])
    overrides = ['data.patient="urn:mrn"']
    (record,), _, _ = ask(bundle(*first[:4]), bundle(again, *rest), overrides=overrides)
    np.testing.assert_array_equal(record.main[0], [NAN, 70, 72, NAN])
    other = again | {"birthDate": "1981-01-01"}
    _, aside, _ = ask(bundle(*first[:4]), bundle(other, *rest), overrides=overrides)
    assert [one.reason for one in aside] == [Fault.CONTRADICTION]


# --- lines -----------------------------------------------------------------------------------


def test_a_bulk_export_has_a_resource_a_line(tmp_path, study, read):
    everything = [*a_patient(), *a_patient("p2", ill=True), {"resourceType": "Practitioner"}]
    for kind in ("Encounter", "Observation", "Condition", "Patient", "Practitioner"):
        lines = [json.dumps(r) for r in everything if r["resourceType"] == kind]
        (tmp_path / f"{kind}.ndjson").write_text("\n\n".join([*lines, ""]))
    records, aside, _ = read(study(), tmp_path)
    assert {(r.key, r.patient, r.stratum, r.main[0, 1]) for r in records} == {
        ("file 4, line 1", "p1", 0, 70),
        ("file 4, line 3", "p2", 1, 70),
    }
    assert not aside


def test_a_damaged_line_is_set_aside_and_a_spoilt_resource_spoils_its_patient(
    tmp_path, study, read
):
    good = [json.dumps(r) for r in (*a_patient(), *a_patient("p2"))]
    bad = json.dumps(weight(70.0, "not a date", "p2"))
    (tmp_path / "all.ndjson").write_text("\n".join([*good, bad, "{", "[]", '{"id": "x"}']))
    records, aside, _ = read(study(), tmp_path)
    assert [record.patient for record in records] == ["p1"]
    assert [(one.key, one.reason) for one in aside] == [
        ("file 1, line 20", Fault.NO_JSON),
        ("file 1, line 21", Fault.NO_BUNDLE),
        ("file 1, line 22", Fault.MALFORMED),
        ("file 1, line 10", Fault.MALFORMED),
    ]


def test_lines_that_cannot_be_opened_stop_the_run(tmp_path, study):
    file = tmp_path / "petronella-quince.ndjson"
    file.write_text(json.dumps(patient()))
    source = open_source(study(), tmp_path)
    file.unlink()
    with pytest.raises(CohortError, match=r"^file 1 of data\.files: the file is not there;"):
        list(source.records())


def test_a_bundle_that_cannot_be_opened_is_set_aside(tmp_path, study):
    bundles.write(tmp_path, bundle(*a_patient()), bundle(*a_patient("p2")))
    source = open_source(study(), tmp_path)
    next(tmp_path.iterdir()).unlink()
    found = [getattr(one, "reason", None) for one in source.records()]
    assert sorted(found, key=str) == [None, "the file is not there"]


# --- units and values ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 72.0),
        ({"valueQuantity": bundles.kilograms(140.0, "[lb_av]")}, 70.0),
        ({"valueQuantity": bundles.kilograms(70_000, "g")}, 70.0),
        ({"status": "amended"}, 72.0),
    ],
)
def test_a_value_is_in_the_unit_of_the_study(ask, changes, expected):
    resources = a_patient()
    resources[4] = weight(72.0, "2011-03-01", **changes)
    (record,), _, notes = ask(bundle(*resources))
    assert record.main[0, 2] == pytest.approx(expected)
    assert not notes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"valueQuantity": bundles.kilograms(72, "[oz_av]")}, "are in another unit"),
        ({"valueQuantity": {"value": 72, "unit": "kg"}}, "are in another unit"),
        ({"valueQuantity": bundles.kilograms(72) | {"system": "urn:x"}}, "are in another unit"),
        ({"valueQuantity": bundles.kilograms(72) | {"comparator": ">"}}, "more or less than"),
        ({"valueQuantity": bundles.kilograms(10**400)}, "are no finite number"),
        ({"valueQuantity": bundles.kilograms(900)}, "lie outside low and high"),
        ({"valueQuantity": {"unit": "kg"}}, "have no value"),
        ({"status": "preliminary"}, "are not final"),
    ],
    ids=range(8),
)
def test_a_value_that_cannot_be_used_is_counted_and_never_mixed_in(ask, changes, reason):
    resources = a_patient()
    resources[4] = weight(72.0, "2011-03-01", **changes)
    (record,), _, notes = ask(bundle(*resources))
    assert np.isnan(record.main[0, 2])
    (note,) = notes
    assert note.startswith("data.features: 1 values of weight")
    assert reason in note


@pytest.mark.parametrize(
    ("without", "given", "reason"),
    [
        ("valueQuantity", {}, "have no value"),
        ("valueQuantity", {"valueString": "heavy"}, "have another kind of value"),
        ("effectiveDateTime", {}, "have no date"),
        ("effectiveDateTime", {"effectiveTiming": {}}, "have no date"),
    ],
)
def test_a_value_without_a_number_or_a_day_is_counted(ask, without, given, reason):
    resources = a_patient()
    resources[4] = {k: v for k, v in resources[4].items() if k != without} | given
    (record,), _, notes = ask(bundle(*resources))
    assert np.nansum(record.main[0]) == 70
    assert reason in notes[0]


def test_an_answer_is_the_number_that_the_study_gives_it(ask):
    def smoking(code, when):
        return bundles._about(
            "Observation",
            "p1",
            status="final",
            code=bundles.concept("72166-2"),
            effectiveDateTime=when,
            valueCodeableConcept=bundles.concept(code, bundles.SNOMED),
        )

    asked = [smoking(bundles.NEVER, "2010-03-01"), smoking(bundles.FORMER, "2011-03-01")]
    (record,), _, notes = ask(bundle(*a_patient(), *asked, smoking("1", "2011-06-01")))
    np.testing.assert_array_equal(record.main[2], [NAN, 0, 1, NAN])
    (note,) = notes
    assert "1 values of smoking are answers that the study does not name" in note


def test_a_component_that_stands_alone_counts_as_well(ask):
    alone = pressure(150.0, "2011-03-01") | {"code": bundles.concept(bundles.SYSTOLIC)}
    del alone["component"]
    alone["valueQuantity"] = bundles.kilograms(150.0, "mm[Hg]")
    (record,), _, _ = ask(bundle(*a_patient(), alone))
    assert record.main[1, 2] == 140.0


# --- what is no example ----------------------------------------------------------------------


def with_more(*more, **changes):
    return bundle(patient(**changes), *a_patient()[1:], *more)


UNUSABLE = {
    "no JSON": ([b"{"], Fault.NO_JSON),
    "empty": ([b""], Fault.NO_JSON),
    "NaN": ([b'{"resourceType": "Bundle", "type": "batch", "total": NaN}'], Fault.NO_JSON),
    "no UTF-8": ([b"\xff\xfe{}"], Fault.NO_JSON),
    "deep": ([b'{"a":' * 100_000], Fault.NO_JSON),
    "deep lists": ([b'{"resourceType": "Bundle", "x": ' + b"[" * 10**6], Fault.NO_JSON),
    "5000 digits": ([b'{"resourceType": "Bundle", "x": ' + b"1" * 5000 + b"}"], Fault.NO_JSON),
    "a list": ([b"[]"], Fault.NO_BUNDLE),
    "a Patient": ([patient()], Fault.NO_BUNDLE),
    "a history": ([bundle(*a_patient(), kind="history")], Fault.BUNDLE_TYPE),
    "no Patient": ([bundle(*a_patient()[1:])], Fault.NO_PATIENT),
    "nobody": ([bundle()], Fault.NO_PATIENT),
    "an organisation": ([bundle({"resourceType": "Organization"})], Fault.NO_PATIENT),
    "somebody else": ([with_more(weight(1, "2011", "p9"))], Fault.SEVERAL),
    "no subject": ([with_more(weight(1, "2011") | {"subject": {}})], Fault.NOWHERE),
    "no code": ([with_more(weight(1, "2011", code=None))], Fault.MALFORMED),
    "a Bundle within": ([with_more(bundle())], Fault.MALFORMED),
    "a wrong date": ([with_more(birthDate="soon")], Fault.MALFORMED),
    "a text for true": ([with_more(deceasedBoolean="no")], Fault.MALFORMED),
    "a text for a number": (
        [with_more(weight(1, "2011", valueQuantity=bundles.kilograms("1")))],
        Fault.MALFORMED,
    ),
    "STU3 Patient": ([with_more(animal={})], Fault.OTHER_VERSION),
    "STU3 Condition": ([with_more(condition("2012", clinicalStatus="x"))], Fault.OTHER_VERSION),
    "STU3 Observation": ([with_more(weight(1, "2011", context={}))], Fault.OTHER_VERSION),
    "R5 Encounter": ([with_more(encounter("2012", **{"class": []}))], Fault.OTHER_VERSION),
    "two births": ([with_more(patient(birthDate="1990"))], Fault.CONTRADICTION),
    "two sexes": ([bundle(*a_patient()), bundle(patient(gender="male"))], Fault.CONTRADICTION),
    "a fault elsewhere": ([bundle(*a_patient()), bundle(weight(1, "never"))], Fault.MALFORMED),
}


@pytest.mark.parametrize(("documents", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_cannot_be_read_is_set_aside_with_its_reason(ask, documents, reason):
    records, aside, _ = ask(*documents)
    assert not records
    assert {one.reason for one in aside} == {reason}


def test_two_patients_in_one_bundle_are_both_set_aside(ask):
    records, aside, _ = ask(bundle(*a_patient(), *a_patient("p2")), bundle(*a_patient("p3")))
    assert [record.patient for record in records] == ["p3"]
    assert [one.reason for one in aside] == [Fault.SEVERAL] * 2


def test_entries_without_a_resource_and_void_resources_are_passed_over(ask):
    void = [
        weight(300.0, "2011-03-01", status="entered-in-error"),
        condition("2012-06-01", verificationStatus=bundles.concept("refuted", "urn:x")),
        encounter("2009-01-01", status="cancelled"),
    ]
    document = bundle(*a_patient(), *void)
    document["entry"].append({"request": {"method": "DELETE", "url": "Patient/p7"}})
    (record,), _, notes = ask(document)
    assert (record.target, record.main[0, 2]) == (0, 72.0)
    assert not notes


def test_a_patient_who_asks_another_question_is_left_out_and_counted(ask):
    documents = [
        bundle(*a_patient("p0")),
        bundle(*a_patient("p1")[:4]),  # two encounters only
        bundle(patient("p2", birthDate="2013"), *a_patient("p2")[1:]),
        bundle(patient("p3", deceasedDateTime="2012-02-01"), *a_patient("p3")[1:]),
        bundle(*a_patient("p4"), condition("2012-02-01", "p4")),
        bundle(*a_patient("p5"), condition("2012", "p5")),
        bundle(*a_patient("p6")[:-1]),  # nothing after the third
        bundle(*[r for r in a_patient("p7") if r["resourceType"] != "Observation"]),
    ]
    records, aside, notes = ask(*documents)
    assert [record.patient for record in records] == ["p0"]
    assert not aside
    (note,) = notes
    assert note.startswith("data.prediction and data.label leave out 7 of 8 patients: ")
    for reason in (
        "no day of prediction", "born after the prediction", "died before the prediction",
        "the condition began before the prediction", "not known well enough",
        "the record ends too early", "nothing observed before the prediction",
    ):  # fmt: skip
        assert f"{reason} (1)" in note


def test_no_message_says_who(ask, tmp_path, study):
    documents = [
        b"{",
        bundle(*a_patient(), *a_patient("p2")),
        bundle(*a_patient("p3")[1:]),
        bundle(*a_patient("p4"), weight(5, "2011", "p4", code=7)),
        bundle(*a_patient("p5")[:4]),
        bundle(*a_patient("p6"), weight(900, "2011", "p6")),
    ]
    _, aside, notes = ask(*documents, overrides=['data.patient="urn:mrn"'])
    said = " ".join([*(f"{one.key} {one.reason}" for one in aside), *notes])
    assert len(aside) == 5
    for secret in ("uince", "etronella", "arkspur", "Tooting", "MRN", "p2", "p4", "urn:"):
        assert secret not in said
    with pytest.raises(CohortError) as refused:
        build_cohorts(study("data.unreadable-share=0.1"), tmp_path, cache=tmp_path / "cache")
    assert "uince" not in str(refused.value)


# --- real bundles ----------------------------------------------------------------------------


def test_synthea_patients_are_read(shared_data, read):
    from wardround_shared.study import load_study
    from wardround_simulations.options import find_study

    study = load_study(find_study("fhir-synthea"))
    records, aside, notes = read(study, shared_data / "fhir-synthea")
    assert [record.target for record in records] == [1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 1]
    assert not aside
    assert not notes
    assert len({record.patient for record in records}) == 12
    first = records[0]
    assert first.main.shape == (10, 8)
    np.testing.assert_allclose(
        first.main[2:4, -3:],
        [
            [110.33004043056229, 131.65886533621133, NAN],
            [80.38266989678232, 81.45593770826972, NAN],
        ],
    )


def test_synthea_files_without_a_patient_are_set_aside(shared_data, read):
    from wardround_shared.study import load_study
    from wardround_simulations.options import find_study

    study = load_study(find_study("fhir-synthea"), ['data.files=["R4/*.json"]'])
    records, aside, _ = read(study, shared_data / "fhir-synthea")
    assert len(records) == 12
    assert [one.reason for one in aside] == [Fault.NO_PATIENT] * 2


def test_where_everybody_is_left_out_it_says_why(tmp_path, study):
    bundles.write(tmp_path, bundle(*a_patient()), bundle(*a_patient("p2")), b"{")
    source = open_source(study("data.prediction={encounter=9}"), tmp_path)
    with pytest.raises(CohortError, match=r"leave out 2 of 2 patients: no day of prediction \(2\)"):
        list(source.records())
