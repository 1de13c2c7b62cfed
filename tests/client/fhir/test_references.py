"""Which patient a resource is about."""

import pytest

from wardround_client.sources.fhir.documents import Entry
from wardround_client.sources.fhir.references import References
from wardround_shared.errors import UnreadableError

PATIENT = {
    "resourceType": "Patient",
    "id": "p1",
    "identifier": [{"system": "urn:mrn", "value": "17"}, {"value": "no system"}],
}


def references(*, patient=PATIENT, url="https://ward.example/fhir/Patient/p1"):
    other = Entry(resource={"resourceType": "Group", "id": "g"}, url="urn:uuid:group")
    return References("file 1", [Entry(resource=patient, url=url), other])


@pytest.mark.parametrize(
    "subject",
    [
        {"reference": "Patient/p1"},
        {"reference": "Patient/p1/_history/3"},
        {"reference": "https://ward.example/fhir/Patient/p1"},
        {"reference": "https://ward.example/fhir/Patient/p1/_history/1"},
        {"reference": "Patient?identifier=urn:mrn|17"},
        {"reference": "Patient?identifier=urn%3Amrn%7C17"},
        {"identifier": {"system": "urn:mrn", "value": "17"}},
    ],
    ids=str,
)
def test_a_patient_is_found_by_each_form_of_reference(subject):
    assert references().subject({"subject": subject}) == "Patient/p1"


def test_a_patient_without_an_id_is_found_by_the_url_of_its_entry():
    patient = {"resourceType": "Patient"}
    found = references(patient=patient, url="urn:uuid:1")
    assert found.subject({"subject": {"reference": "urn:uuid:1"}}) == "file 1#urn:uuid:1"


def test_a_patient_of_another_file_is_named_by_id():
    assert references().subject({"subject": {"reference": "Patient/p2"}}) == "Patient/p2"


@pytest.mark.parametrize("reference", ["Group/g", "Device/1", "Location/x", "urn:uuid:group"])
def test_what_is_about_something_else_is_nobodys(reference):
    assert references().subject({"subject": {"reference": reference}}) is None


@pytest.mark.parametrize(
    "subject",
    [
        {},
        {"display": "Petronella Quince"},
        {"reference": ""},
        {"reference": "urn:uuid:nobody"},
        {"reference": "#contained"},
        {"reference": "https://other.example/fhir/Patient/p1"},
        {"reference": "Patient?identifier=urn:mrn|18"},
        {"reference": "Patient?name=Quince"},
        {"reference": "Patient?identifier=urn:mrn|17&name=Quince"},
        {"reference": "Patient?identifier=17"},
        {"identifier": {"value": "17"}},
        {"identifier": {"value": "no system"}},
    ],
    ids=str,
)
def test_a_reference_to_nobody_is_refused(subject):
    with pytest.raises(UnreadableError, match="nowhere"):
        references().subject({"subject": subject})


@pytest.mark.parametrize(
    "resource", [{"subject": "Patient/p1"}, {"subject": {"reference": 7}}, {"subject": None}]
)
def test_a_reference_of_the_wrong_type_is_refused(resource):
    with pytest.raises(UnreadableError, match="R4"):
        references().subject(resource)


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "../p", 7, None])
def test_an_id_is_an_id(given):
    with pytest.raises(UnreadableError, match="R4"):
        references(patient={"resourceType": "Patient", "id": given})
