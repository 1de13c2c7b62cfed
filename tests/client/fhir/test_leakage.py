"""Nothing from the day of the prediction or later shows in what a model is given.

Each patient is read twice: once as made, and once with everything that is dated on that day or
later changed, removed or invented anew. The inputs have to be the same to the last bit.
"""

import copy
import random
from datetime import date, timedelta

import bundles
import numpy as np
import pytest
from bundles import a_patient, bundle, condition, encounter, patient, pressure, weight

from wardround_client.sources import RawRecord, open_source

FIRST = date(2010, 1, 1)
RULES = ["{encounter=3}", '{date="2012-01-01"}', "{age=32}", "{years-observed=2}"]
FOREVER = ('data.label={conditions=["a|b"], begins="ever"}', 'data.static=["age", "sex"]')


def moment(random, after=None, before=None):
    """A dateTime of any precision and zone, not before the day `after`, before the day `before`."""
    start = (after or FIRST).toordinal()
    end = before.toordinal() if before else start + 2000
    day = date.fromordinal(random.randrange(start, end))
    # Whole months and years reach to their end, and an hour in another zone to the next day.
    if before is None and random.random() < 0.2:
        return f"{day + timedelta(31):%Y-%m}" if after else f"{day:%Y-%m}"
    if random.random() < 0.5:
        return day.isoformat()
    return f"{day}T{random.randrange(24):02}:{random.randrange(60):02}:00Z"


def anything(random, **bounds):
    """Some resource of the patient."""
    when = moment(random, **bounds)
    kind = random.randrange(4)
    if kind == 0:
        return weight(random.uniform(30, 120), when)
    if kind == 1:
        return pressure(random.uniform(90, 180), when)
    if kind == 2:
        return condition(when)
    # In time at first, and issued later: known later.
    early = moment(random, before=bounds["after"]) if "after" in bounds else when
    return weight(random.uniform(30, 120), early, issued=f"{when[:10]:<10}".strip())


def inputs(study, folder, resources):
    for old in folder.iterdir():
        old.unlink()
    bundles.write(folder, bundle(*resources))
    records = [r for r in open_source(study, folder).records() if isinstance(r, RawRecord)]
    return records[0] if records else None


@pytest.mark.parametrize("rule", RULES[:3])
@pytest.mark.parametrize("seed", range(25))
def test_what_comes_later_never_changes_the_input(tmp_path, study, rule, seed):
    rng = random.Random(seed)
    asked = study(*FOREVER, f"data.prediction={rule}")
    today = date(2012, 1, 1)
    earlier = [anything(rng, before=today) for _ in range(rng.randrange(1, 12))]
    visits = [encounter(f"{year}-01-01T09:00:00Z") for year in (2010, 2011, 2012)]
    past = [patient(), *visits, *earlier]
    first = inputs(asked, tmp_path, past)
    for _ in range(3):
        later = [anything(rng, after=today) for _ in range(rng.randrange(1, 12))]
        if rng.random() < 0.5:
            later.append(encounter(moment(rng, after=today)))
        mixed = [*past, *later]
        rng.shuffle(mixed)
        again = inputs(asked, tmp_path, mixed)
        if first is None:
            assert again is None
            continue
        np.testing.assert_array_equal(again.main, first.main)
        np.testing.assert_array_equal(again.static, first.static)


def test_what_comes_later_than_the_years_of_observation_never_shows(tmp_path, study):
    asked = study(*FOREVER, "data.prediction={years-observed=2}")
    past = [patient(), weight(70.0, "2010-01-01"), weight(72.0, "2011-12-31")]
    first = inputs(asked, tmp_path, past)
    assert np.nansum(first.main[0]) == 142
    for when in ("2012-01-01", "2012-01-02T00:00:00Z", "2012", "2013-05"):
        again = inputs(asked, tmp_path, [*past, weight(90.0, when)])
        np.testing.assert_array_equal(again.main, first.main)


@pytest.mark.parametrize(
    "later",
    [
        weight(90.0, "2012-03-01"),
        weight(90.0, "2012-03"),
        weight(90.0, "2012"),
        weight(90.0, "2012-03-01T00:00:00Z"),
        # The evening before, as written; the same instant as 2012-03-01T01:00Z.
        weight(90.0, "2012-02-29T20:00:00-05:00"),
        weight(90.0, "2012-02-28", issued="2012-03-01T08:00:00Z"),
        {k: v for k, v in weight(90.0, "").items() if k != "effectiveDateTime"}
        | {"effectivePeriod": {"start": "2012-02-01", "end": "2012-03-01"}},
    ],
    ids=range(7),
)
def test_the_day_itself_is_later(tmp_path, study, later):
    asked = study(*FOREVER)
    first = inputs(asked, tmp_path, a_patient())
    again = inputs(asked, tmp_path, [*a_patient(), later])
    np.testing.assert_array_equal(again.main, first.main)


def test_the_day_before_is_earlier(tmp_path, study):
    asked = study(*FOREVER)
    first = inputs(asked, tmp_path, a_patient())
    again = inputs(asked, tmp_path, [*a_patient(), weight(90.0, "2012-02-29T10:00:00Z")])
    assert np.nansum(again.main[0]) == np.nansum(first.main[0]) + 90


def test_of_real_patients_what_comes_later_never_shows(tmp_path, study, shared_data):
    import json

    from wardround_shared.study import load_study
    from wardround_simulations.options import find_study

    rules = ["data.files=['*']", "data.prediction={date='2015-01-01'}", FOREVER[0]]
    asked = load_study(find_study("fhir-synthea"), rules)
    rng = random.Random(1)
    changed = 0
    for path in sorted((shared_data / "fhir-synthea" / "R4").glob("*_*.json")):
        document = json.loads(path.read_bytes())
        altered = copy.deepcopy(document)
        for entry in altered["entry"]:
            resource = entry["resource"]
            if str(resource.get("effectiveDateTime")) >= "2015" and "valueQuantity" in resource:
                resource["valueQuantity"]["value"] = rng.uniform(10, 200)
                changed += 1
        found = []
        for content in (document, altered):
            for old in tmp_path.iterdir():
                old.unlink()
            bundles.write(tmp_path, content)
            found.append(list(open_source(asked, tmp_path).records()))
        assert [r.main.tobytes() for r in found[0]] == [r.main.tobytes() for r in found[1]]
    assert changed > 100
