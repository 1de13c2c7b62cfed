"""Fitting sees sums over all sites and nothing else."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wardround_shared.errors import CohortError
from wardround_shared.preprocessing import recipe as recipe_module

STANDARDISE = {"name": "standardise"}
# Whole numbers have exact sums in float64, so that equality can be asked to the last bit.
CELLS = st.one_of(st.integers(-1000, 1000).map(float), st.just(np.nan))


@pytest.fixture(scope="module")
def table_recipe(make_recipe):
    return make_recipe("table", {"name": "impute"}, STANDARDISE, {"name": "one-hot"})


@pytest.fixture(scope="module")
def image_recipe(make_recipe):
    return make_recipe("image", STANDARDISE)


def fit_over(recipe, sites):
    """Fit as a federation does: each step on the sum of the sites' sums."""
    fitted = ()
    for _ in recipe.needs_fit:
        total = sum(recipe.statistics((site,), fitted) for site in sites)
        fitted = (*fitted, recipe.fit(total, fitted))
    return fitted


@given(
    table=hnp.arrays(np.float64, st.tuples(st.integers(0, 30), st.just(3)), elements=CELLS),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_any_split_into_sites_gives_what_the_pooled_table_gives(table_recipe, table, cuts):
    table[:, 1] = np.abs(table[:, 1]) % 3
    sites = np.split(table, sorted(min(cut, len(table)) for cut in cuts))
    pooled, split = fit_over(table_recipe, [table]), fit_over(table_recipe, sites)
    # The second step sees means that need not be whole: its sums agree up to rounding.
    np.testing.assert_array_equal(split[0]["mean"], pooled[0]["mean"])
    for key in ("mean", "scale"):
        np.testing.assert_allclose(split[1][key], pooled[1][key], rtol=1e-6, atol=1e-9)
    assert np.isfinite(table_recipe.transform((table,), pooled)[0]).all()


@given(
    images=hnp.arrays(np.uint8, st.tuples(st.integers(0, 6), st.just(2), st.just(3), st.just(4))),
    cut=st.integers(0, 6),
)
def test_any_split_into_sites_gives_what_the_pooled_images_give(image_recipe, images, cut):
    images = images.astype(np.float32)
    ((pooled,), (split,)) = (
        fit_over(image_recipe, sites) for sites in ([images], [images[:cut], images[cut:]])
    )
    np.testing.assert_array_equal(split["mean"], pooled["mean"])
    np.testing.assert_array_equal(split["scale"], pooled["scale"])


def test_one_site_is_not_standardised_by_its_own_sums(image_recipe):
    near, far = np.zeros((5, 1, 2, 2), np.float32), np.full((5, 1, 2, 2), 10.0, np.float32)
    fitted = fit_over(image_recipe, [near, far])
    np.testing.assert_allclose(image_recipe.transform((near,), fitted)[0], -1.0)
    np.testing.assert_allclose(image_recipe.transform((far,), fitted)[0], 1.0)


def test_each_channel_gets_zero_mean_and_unit_spread(image_recipe):
    images = np.random.default_rng(0).normal(size=(50, 3, 8, 8)).astype(np.float32)
    images = images * np.array([1, 20, 300], np.float32)[:, None, None] + 1000.0
    (done,) = image_recipe.transform((images,), fit_over(image_recipe, [images]))
    np.testing.assert_allclose(done.mean((0, 2, 3)), 0.0, atol=1e-3)
    np.testing.assert_allclose(done.std((0, 2, 3)), 1.0, rtol=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 + 0.1, -3e-9])
def test_a_column_without_spread_becomes_zeros(make_recipe, value):
    recipe = make_recipe("numeric", STANDARDISE)
    table = np.full((1001, 2), value)
    (done,) = recipe.transform((table,), fit_over(recipe, [table[:400], table[400:]]))
    assert not done.any()


def test_a_small_spread_around_a_large_mean_is_still_seen(make_recipe):
    recipe = make_recipe("numeric", STANDARDISE)
    table = 1e5 + np.random.default_rng(0).normal(size=(2000, 2))
    (done,) = recipe.transform((table,), fit_over(recipe, [table]))
    np.testing.assert_allclose(done.std(axis=0), 1.0, rtol=1e-3)


@pytest.mark.parametrize(
    ("source", "steps", "shape"),
    [
        ("table", [{"name": "impute"}, STANDARDISE, {"name": "one-hot"}], (3,)),
        ("image", [STANDARDISE], (3, 8, 8)),
        ("signal", [STANDARDISE], (2, 100)),
    ],
)
def test_the_length_of_the_sums_is_known_without_data_and_an_empty_site_adds_nothing(
    make_recipe, source, steps, shape
):
    recipe = make_recipe(source, *steps)
    fitted = ()
    for _ in recipe.needs_fit:
        sums = recipe.statistics((np.zeros((0, *shape)),), fitted)
        assert sums.dtype == np.float64
        assert sums.shape == (recipe.statistics_length((shape,), fitted),)
        assert not sums.any()
        fitted = (*fitted, recipe.fit(sums, fitted))
    (done,) = recipe.transform((np.zeros((0, *shape)),), fitted)
    assert done.shape == (0, *recipe.output_shapes((shape,))[0])


def test_sums_that_are_not_finite_are_refused(image_recipe):
    with pytest.raises(CohortError, match="not finite"):
        image_recipe.fit(np.array([1.0, np.inf, np.inf]), ())


def test_sums_over_some_rows_are_those_of_the_rows_alone(image_recipe, monkeypatch):
    images = np.random.default_rng(1).random((11, 2, 8, 8), dtype=np.float32)
    index = np.array([9, 0, 3, 4, 7])
    monkeypatch.setattr(recipe_module, "_CHUNK_VALUES", 2 * 128)
    np.testing.assert_array_equal(
        image_recipe.statistics((images,), (), index=index),
        image_recipe.statistics((images[index],), ()),
    )
    none = np.zeros(0, dtype=np.int64)
    assert not image_recipe.statistics((images,), (), index=none).any()


def test_sums_over_some_rows_never_hold_all_of_them(image_recipe, monkeypatch):
    images = np.ones((1000, 2, 32, 32), np.float32)  # 8 MB
    monkeypatch.setattr(recipe_module, "_CHUNK_VALUES", 10 * 2048)
    tracemalloc.start()
    try:
        image_recipe.statistics((images,), (), index=np.arange(900))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_500_000


def test_chunks_change_neither_sums_nor_result(image_recipe, monkeypatch):
    images = np.random.default_rng(0).integers(0, 255, (23, 1, 4, 4)).astype(np.float32)
    fitted = fit_over(image_recipe, [images])
    whole = image_recipe.transform((images,), fitted)[0]
    monkeypatch.setattr(recipe_module, "_CHUNK_VALUES", 50)
    np.testing.assert_array_equal(fit_over(image_recipe, [images])[0]["mean"], fitted[0]["mean"])
    np.testing.assert_array_equal(image_recipe.transform((images,), fitted)[0], whole)


def test_a_memory_mapped_array_is_left_as_it_is(image_recipe, tmp_path):
    images = np.random.default_rng(0).random((5, 1, 4, 4)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="c")
    image_recipe.transform((mapped,), fit_over(image_recipe, [mapped]))
    np.testing.assert_array_equal(mapped, images)
