"""What a study may say of records over time, and what is refused."""

import tomllib
from pathlib import Path

import pytest

from wardround_shared.errors import StudyError
from wardround_shared.study import check_study, load_study, parse_study, study_text
from wardround_simulations.options import find_study

FEATURE = "name='a', codes=['s|1']"


def asked(*overrides):
    return load_study(find_study("fhir-synthea"), overrides)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.prediction={}", ["data.prediction", "exactly one of encounter"]),
        ("data.prediction={age=50, encounter=2}", ["data.prediction", "exactly one"]),
        ("data.prediction={encounter=0}", ["data.prediction.encounter", "0"]),
        ("data.prediction={date='soon'}", ["data.prediction.date", "soon"]),
        ("data.prediction={age=inf}", ["data.prediction.age"]),
        ("data.label.conditions=[]", ["data.label.conditions"]),
        ("data.label.conditions=['38341003']", ["data.label.conditions", "38341003"]),
        ("data.label.begins=ever", ["data.label", "within-days"]),
        ("data.label.begins=before", ["data.label.begins", "first-after"]),
        ("data.label.column=y", ["data.label.column", "no such key"]),
        ("data.features=[]", ["data.features"]),
        (f"data.features=[{{{FEATURE}}}]", ["data.features.0", "either unit"]),
        (f"data.features=[{{{FEATURE}, unit='g', values={{'s|2'=1}}}}]", ["either unit"]),
        (f"data.features=[{{{FEATURE}, values={{'s|2'=1}}, low=0}}]", ["need a unit"]),
        (f"data.features=[{{{FEATURE}, unit='g', low=2, high=1}}]", ["low must be below high"]),
        (
            f"data.features=[{{{FEATURE}, unit='g', convert=[{{unit='g', factor=2}}]}}]",
            ["a unit stands there twice"],
        ),
        (
            f"data.features=[{{{FEATURE}, unit='g', convert=[{{unit='kg', factor=0}}]}}]",
            ["data.features.0.convert.0", "factor of 0"],
        ),
        (
            f"data.features=[{{{FEATURE}, unit='g'}}, {{{FEATURE}, unit='g'}}]",
            ["the name of a feature stands there twice"],
        ),
        (
            f"data.features=[{{{FEATURE}, unit='g'}}, {{name='b', codes=['s|1'], unit='g'}}]",
            ["a code stands there twice"],
        ),
        ("data.prediction={last-encounter=true}", ["last-encounter", "leave label.within-days"]),
        ("data.static=['age', 'age']", ["a static column stands there twice"]),
        ("data.static=['address']", ["data.static", "address"]),
        ("data.length=1", ["data.length"]),
        ("data.max-per-patient=3", ["data.max-per-patient: 3", "a patient is one example"]),
        ("data.site={folder=true}", ["data.site", "no such key"]),
        ("study.classes=['a', 'b', 'c']", ["study.classes", "two classes", "3"]),
        ("study.task=signal-classification", ["study.task", 'write "record-']),
    ],
)
def test_a_fault_is_named_with_key_and_what_is_allowed(override, words):
    with pytest.raises(StudyError) as caught:
        asked(override)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rule", ["{date=2018-01-31}", "{date='2018-01-31'}", "{age=50.5}"])
def test_a_study_survives_being_written_and_read_again(rule):
    study = asked(f"data.prediction={rule}")
    again = parse_study(study_text(study), origin="again")
    assert again == study
    assert again.study_id == study.study_id


def test_the_example_in_the_documents_is_a_study():
    text = (Path(__file__).parents[2] / "docs" / "fhir.md").read_text(encoding="utf-8")
    example = tomllib.loads(text.split("```toml\n")[1].split("```")[0])
    whole = tomllib.loads(find_study("fhir-synthea").read_text(encoding="utf-8"))
    study = check_study(whole | example, origin="docs/fhir.md")
    assert study.data.features[0].name == "weight"
