"""Records over time: masks, gaps, standardisation of what was observed, filling."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_shared.errors import StudyError, UnreadableError
from wardround_shared.preprocessing.record import decode_record

NAN = np.nan
STANDARDISE, FILL = {"name": "standardise"}, {"name": "fill"}
RECORD = np.array(
    [
        [NAN, NAN, 70.0, NAN, 72.0, NAN],
        [NAN, 5.0, NAN, NAN, NAN, NAN],
        [NAN, -900.0, -700.0, -366.25, -1.0, 0.0],
    ]
)


def year(*days):
    return np.log1p(days) / np.log1p(365.25)


def test_a_record_becomes_values_masks_and_gaps():
    values, masks, gaps = np.split(decode_record(RECORD, 2), 3)
    np.testing.assert_array_equal(values, RECORD[:2])
    np.testing.assert_array_equal(masks, [[0, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0]])
    np.testing.assert_allclose(gaps[0], year(0, 0, 200, 333.75, 699, 1), rtol=1e-6)
    np.testing.assert_allclose(gaps[1], year(0, 0, 200, 533.75, 899, 900), rtol=1e-6)


def test_a_year_is_one():
    record = np.array([[1.0, NAN], [-365.25, 0.0]])
    assert decode_record(record, 1)[2].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    "record",
    [
        RECORD[:2],
        RECORD[0],
        np.where(RECORD == 70.0, np.inf, RECORD),
        np.where(RECORD == 70.0, 1e39, RECORD),  # too large for float32
        RECORD[:, ::-1],
        np.where(RECORD == -700.0, -900.0, RECORD),
        np.concatenate([np.full((2, 6), 1.0), RECORD[2:]]),  # a value without a day
    ],
    ids=range(7),
)
def test_a_record_that_is_none_is_unreadable(record):
    with pytest.raises(UnreadableError, match="the record has"):
        decode_record(record, 2)


def some_records(seed, count, features=2, length=6):
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(count):
        record = np.full((features + 1, length), NAN)
        known = rng.integers(1, length)
        record[-1, -known - 1 :] = np.sort(rng.choice(2000, known + 1, replace=False)) - 2000.0
        seen = rng.random((features, known)) < 0.6
        record[:-1, -known - 1 : -1] = np.where(seen, rng.normal(70, 9, seen.shape), NAN)
        records.append(record)
    return records


def decoded(recipe, records):
    return np.stack([recipe.decode(record)[0] for record in records])


@given(st.integers(0, 100), st.integers(1, 9))
def test_sums_over_sites_are_those_over_all_observed_values(make_recipe, seed, cut):
    recipe = make_recipe("fhir", STANDARDISE, FILL)
    records = some_records(seed, 10)
    main = decoded(recipe, records)
    total = sum(recipe.statistics((part,), ()) for part in (main[:cut], main[cut:]))
    fitted = recipe.fit(total, ())
    for feature in range(2):
        values = np.concatenate([record[feature] for record in records]).astype(np.float32)
        there = values[~np.isnan(values)].astype(float)
        assert total[feature] == len(there)
        if len(there) > 1:
            assert fitted["mean"][feature] == pytest.approx(there.mean())
            assert 1 / fitted["scale"][feature] == pytest.approx(there.std(), rel=1e-4)


def test_values_are_standardised_and_masks_and_gaps_stay(make_recipe):
    recipe = make_recipe("fhir", STANDARDISE, FILL)
    main = decoded(recipe, some_records(3, 40))
    (done,) = recipe.transform((main,), (recipe.fit(recipe.statistics((main,), ()), ()),))
    assert recipe.output_shapes([main.shape[1:]]) == (done.shape[1:],)
    np.testing.assert_array_equal(done[:, 2:], main[:, 2:])
    seen = main[:, 2:4] == 1.0
    for feature in range(2):
        values = done[:, feature][seen[:, feature]]
        assert values.mean() == pytest.approx(0.0, abs=1e-4)
        assert values.std() == pytest.approx(1.0, rel=1e-3)
    assert (done[:, :2][~seen] == 0.0).all()


def test_the_last_value_comes_halfway_to_the_mean_in_its_half_life(make_recipe):
    recipe = make_recipe("fhir", STANDARDISE, {**FILL, "half-life-days": 200})
    main = decoded(recipe, [RECORD, RECORD + 2.0 * (np.arange(3) < 2)[:, None]])
    fitted = recipe.fit(recipe.statistics((main,), ()), ())
    (done,) = recipe.transform((main,), (fitted,))
    first, second = done[0, 0, 2], done[0, 0, 4]
    np.testing.assert_allclose(
        done[0, 0],
        [0, 0, first, first * 0.5 ** (333.75 / 200), second, second * 0.5 ** (1 / 200)],
        rtol=1e-4,
    )
    np.testing.assert_allclose(done[0, 1, 2] / done[0, 1, 1], 0.5, rtol=1e-4)
    assert np.isfinite(done).all()


def test_static_columns_go_their_own_way(make_recipe):
    steps = [
        {"name": "impute", "indicator": False}, STANDARDISE, {"name": "one-hot"}, FILL,
    ]  # fmt: skip
    recipe = make_recipe("fhir", *steps, static=["sex", "age"])
    record, static = recipe.decode(RECORD, np.array([NAN, 61.0]))
    fitted = ()
    for _ in recipe.needs_fit:
        fitted = (
            *fitted,
            recipe.fit(recipe.statistics((record[None], static[None]), fitted), fitted),
        )
    done = recipe.transform((record[None], static[None]), fitted)
    np.testing.assert_array_equal(done[1], [[0.0, 0.0, 61.0]])
    with pytest.raises(UnreadableError, match="static"):
        recipe.decode(RECORD)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [STANDARDISE],
        [FILL],
        [FILL, STANDARDISE],
        [{**STANDARDISE, "part": "static"}, FILL],
    ],
    ids=range(5),
)
def test_gaps_need_standardise_and_then_fill(make_recipe, steps):
    with pytest.raises(StudyError, match="standardise and then fill"):
        make_recipe("fhir", *steps, static=["age"])


@pytest.mark.parametrize(
    "step", [{"name": "augment"}, {"name": "normalise"}, {"name": "impute"}, {"name": "one-hot"}]
)
def test_other_steps_do_not_fit_records(make_recipe, step):
    with pytest.raises(StudyError, match="does not fit what the data source gives; fill, stand"):
        make_recipe("fhir", STANDARDISE, step, FILL)


def test_fill_is_for_records_only(make_recipe):
    with pytest.raises(StudyError, match="fill does not fit"):
        make_recipe("signal", STANDARDISE, FILL)
