"""FHIR R4 resources of invented patients, as small as they can be."""

import json
from itertools import count

LOINC, SNOMED = "http://loinc.org", "http://snomed.info/sct"
UCUM = "http://unitsofmeasure.org"
WEIGHT, PRESSURE, SYSTOLIC = "29463-7", "85354-9", "8480-6"
NEVER, FORMER = "266919005", "8517006"
_NUMBERS = count()


def patient(name="p1", **more):
    return {
        "resourceType": "Patient",
        "id": name,
        "name": [{"family": "Quince", "given": ["Petronella"]}],
        "address": [{"line": ["7 Larkspur Lane"], "city": "Upper Tooting"}],
        "identifier": [{"system": "urn:mrn", "value": f"MRN-{name}"}],
        "gender": "female",
        "birthDate": "1980-01-01",
        **more,
    }


def _about(kind, who, **more):
    return {
        "resourceType": kind,
        "id": f"r{next(_NUMBERS)}",
        "subject": {"reference": f"Patient/{who}"},
        **more,
    }


def concept(code, system=LOINC):
    return {"coding": [{"system": system, "code": code}]}


def kilograms(value, code="kg"):
    return {"value": value, "unit": code, "system": UCUM, "code": code}


def weight(value, when, who="p1", **more):
    return _about(
        "Observation",
        who,
        **{
            "status": "final",
            "code": concept(WEIGHT),
            "effectiveDateTime": when,
            "valueQuantity": kilograms(value),
            **more,
        },
    )


def pressure(systolic, when, who="p1"):
    part = {"code": concept(SYSTOLIC), "valueQuantity": kilograms(systolic, "mm[Hg]")}
    return _about(
        "Observation",
        who,
        status="final",
        code=concept(PRESSURE),
        effectiveDateTime=when,
        component=[part],
    )


def encounter(when, who="p1", **more):
    return _about(
        "Encounter",
        who,
        **{"status": "finished", "class": {"code": "AMB"}, "period": {"start": when}, **more},
    )


def condition(when, who="p1", code="44054006", **more):
    return _about(
        "Condition", who, **{"code": concept(code, SNOMED), "onsetDateTime": when, **more}
    )


def bundle(*resources, kind="collection"):
    entries = [{"fullUrl": f"urn:uuid:{r['resourceType']}-{r.get('id')}", "resource": r}
               for r in resources]  # fmt: skip
    return {"resourceType": "Bundle", "type": kind, "entry": entries}


def write(folder, *documents):
    """One file each, in this order."""
    for number, document in enumerate(documents):
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        (folder / f"{number:03}-petronella-quince.json").write_bytes(content)


def a_patient(who="p1", *, ill=False):
    """A patient with two weights before the third encounter, and one after it."""
    resources = [
        patient(who),
        encounter("2010-03-01T10:00:00+01:00", who),
        weight(70.0, "2010-03-01T10:05:00+01:00", who),
        encounter("2011-03-01T10:00:00+01:00", who),
        weight(72.0, "2011-03-01T10:05:00+01:00", who),
        pressure(130.0, "2011-03-01T10:06:00+01:00", who),
        encounter("2012-03-01T10:00:00+01:00", who),
        weight(90.0, "2012-03-01T10:05:00+01:00", who),
        encounter("2014-03-01T10:00:00+01:00", who),
    ]
    if ill:
        resources.append(condition("2012-09-01", who))
    return resources


_ANSWERS = f'{{ "{SNOMED}|{NEVER}" = 0, "{SNOMED}|{FORMER}" = 1 }}'
DATA = f"""
[data]
source = "fhir"
files = ["*"]
length = 4
unreadable-share = 1.0
prediction = {{ encounter = 3 }}
label = {{ conditions = ["{SNOMED}|44054006"], within-days = 365 }}
features = [
  {{ name = "weight", codes = ["{LOINC}|{WEIGHT}"], unit = "kg", low = 1, high = 400, convert = [
    {{ unit = "[lb_av]", factor = 0.5 }},
    {{ unit = "g", factor = 0.001 }},
  ] }},
  {{ name = "systolic", codes = ["{LOINC}|{SYSTOLIC}"], unit = "mm[Hg]" }},
  {{ name = "smoking", codes = ["{LOINC}|72166-2"], values = {_ANSWERS} }},
]
"""
STEPS = """
[preprocessing]
steps = [{ name = "standardise" }, { name = "fill" }]
"""
