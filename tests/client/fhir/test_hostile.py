"""Damaged and hostile files: each patient is read or set aside, and no message says who.

Real and invented Bundles are changed at random places; whatever comes of it, nothing but a record,
a fixed phrase or a count in a note comes out.
"""

import copy
import json
import random

import bundles
import pytest
from bundles import a_patient, bundle

from wardround_client.sources import RawRecord, SetAside, open_source
from wardround_client.sources.fhir.faults import Fault
from wardround_shared.errors import CohortError, UnreadableError
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import load_study

SECRETS = ("uince", "etronella", "arkspur", "MRN-", "urn:uuid", "Tooting")
JUNK = [
    None, True, False, 0, -1, 10**400, 1e308, "", " ", "\0", "\ud800", "x" * 5000, "2014-13-45",
    "9999-12-31", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "Patient/p1",
    "Patient/p2", "urn:uuid:nobody", "Patient?identifier=%FF%00|", "?", "|", [], {}, [[]], [{}],
    [None], {"": None}, ["a"], {"coding": {}}, {"coding": [None]}, {"reference": []},
    {"resourceType": "Patient"}, {"value": "NaN"}, {"system": 1, "code": 2},
]  # fmt: skip


def places(value, path=()):
    """Every place in a document."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from places(inner, (*path, number))


def damaged(document, rng):
    """The document with one to three places changed, removed or doubled."""
    document = copy.deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        *way, last = rng.choice(list(places(document)))
        inner = document
        for step in way:
            inner = inner[step]
        action = rng.random()
        if action < 0.15:
            del inner[last]
        elif action < 0.25 and isinstance(inner, list):
            inner.append(copy.deepcopy(inner[last]))
        elif action < 0.35 and isinstance(inner, dict):
            inner[rng.choice(["id", "status", "issued", "onsetString", "value"])] = inner[last]
        else:
            inner[last] = copy.deepcopy(rng.choice(JUNK))
        if not document:
            break
    return document


def require_harmless(study, folder):
    source = open_source(study, folder)
    recipe = Recipe(study)
    found, said = [], []
    try:
        found.extend(source.records())
    except CohortError as error:  # nobody is left whom the question concerns
        said.append(str(error))
        assert said[0].startswith("data.prediction and data.label leave out ")
    for one in found:
        if isinstance(one, SetAside):
            assert one.reason in set(Fault)
            said += [one.key, one.reason]
            continue
        assert isinstance(one, RawRecord)
        one.patient.encode()  # or it could not be counted
        try:
            recipe.decode(one.main, one.static)
        except UnreadableError as error:
            said.append(str(error))
    said = " ".join([*said, *source.notes()])
    assert not [secret for secret in SECRETS if secret in said]


STATIC = 'data.static=["age", "sex"]'
STEPS = (
    "preprocessing.steps=[{name='impute'}, {name='standardise'}, {name='one-hot'}, {name='fill'}]"
)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "rule", ["{encounter=3}", "{last-encounter=true}", "{age=32}", "{years-observed=1.5}"]
)
def test_small_bundles_changed_at_random(tmp_path, study, seed, rule):
    rng = random.Random(seed)
    label = "data.label={conditions=['http://snomed.info/sct|44054006']}"
    asked = study(STATIC, STEPS, f"data.prediction={rule}", 'data.patient="urn:mrn"', label)
    document = bundle(*a_patient(ill=True))
    for _ in range(6):
        bundles.write(tmp_path, *(damaged(document, rng) for _ in range(5)))
        require_harmless(asked, tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_lines_changed_at_random(tmp_path, study, seed):
    rng = random.Random(seed)
    asked = study(STATIC, STEPS)
    for _ in range(15):
        lines = [damaged(r, rng) if rng.random() < 0.1 else r for r in a_patient(ill=True)]
        (tmp_path / "all.ndjson").write_text("\n".join(map(json.dumps, lines)))
        require_harmless(asked, tmp_path)


@pytest.mark.parametrize("seed", range(8))
def test_bytes_changed_at_random(tmp_path, study, seed):
    rng = random.Random(seed)
    content = json.dumps(bundle(*a_patient(ill=True))).encode()
    for _ in range(20):
        broken = bytearray(content)
        for _ in range(rng.randint(1, 8)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        cut = rng.randrange(len(broken)) if rng.random() < 0.3 else len(broken)
        bundles.write(tmp_path, bytes(broken[:cut]))
        require_harmless(study(), tmp_path)


def test_real_bundles_changed_at_random(tmp_path, shared_data):
    from wardround_simulations.options import find_study

    asked = load_study(find_study("fhir-synthea"), ["data.files=['*']"])
    rng = random.Random(5)
    for path in sorted((shared_data / "fhir-synthea" / "R4").glob("*_*.json"))[:4]:
        document = json.loads(path.read_bytes())
        kept = ("Patient", "Encounter", "Condition", "Observation")
        document["entry"] = [
            entry for entry in document["entry"] if entry["resource"]["resourceType"] in kept
        ]
        names = document["entry"][0]["resource"]["name"][0]
        for _ in range(6):
            bundles.write(tmp_path, *(damaged(document, rng) for _ in range(3)))
            require_harmless(asked, tmp_path)
        assert names["family"] not in " ".join(open_source(asked, tmp_path).notes())
