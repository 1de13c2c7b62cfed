"""The recipe as a whole."""

import numpy as np
import pytest

STANDARDISE = {"name": "standardise"}
RESIZE = {"name": "resize", "size": [8, 8]}


def test_the_cache_key_changes_with_what_decoding_depends_on(make_recipe):
    keys = [
        make_recipe("image").cache_key,
        make_recipe("image", RESIZE).cache_key,
        make_recipe("image", {**RESIZE, "size": [8, 9]}).cache_key,
        make_recipe("signal").cache_key,
        make_recipe("signal", **{"sampling-rate": 250.0}).cache_key,
        make_recipe("numeric").cache_key,
    ]
    assert len(set(keys)) == len(keys)


def test_the_cache_key_is_the_same_for_recipes_that_decode_alike(make_recipe):
    plain = make_recipe("image", RESIZE)
    assert plain.cache_key == make_recipe("image", RESIZE, STANDARDISE).cache_key
    assert plain.cache_key == make_recipe("image", RESIZE, {"name": "augment"}).cache_key


def test_the_order_of_record_steps_is_part_of_the_cache_key(make_recipe):
    window = {"name": "window", "low": 0.0, "high": 1.0}
    assert (
        make_recipe("image", RESIZE, window).cache_key
        != make_recipe("image", window, RESIZE).cache_key
    )


def test_a_histogram_makes_a_table_that_can_be_standardised(make_recipe):
    recipe = make_recipe(
        "image", {"name": "histogram", "low": 0.0, "high": 256.0, "bins": 8}, STANDARDISE
    )
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (16, 16), dtype=np.uint8) for _ in range(20)]
    main = np.stack([recipe.decode(image)[0] for image in images])
    np.testing.assert_allclose(main.sum(1), 1.0, rtol=1e-6)
    (table,) = recipe.transform((main,), (recipe.fit(recipe.statistics((main,), ()), ()),))
    assert table.shape == (20, 8)
    np.testing.assert_allclose(table.std(0), 1.0, rtol=1e-4)


def test_arrays_that_no_step_touches_are_not_copied(make_recipe):
    images = np.zeros((3, 1, 8, 8), np.float32)
    assert make_recipe("image").transform((images,), ())[0] is images


def test_transforming_before_every_step_is_fitted_is_a_mistake(make_recipe):
    recipe = make_recipe("image", STANDARDISE)
    with pytest.raises(ValueError, match="0 of 1"):
        recipe.transform((np.zeros((1, 1, 8, 8), np.float32),), ())


def test_real_beats_come_out_finite_and_comparable(make_recipe, shared_data):
    beats = np.load(shared_data / "ecg-mitbih" / "beats.npz")["X"][:200]
    recipe = make_recipe("signal", {"name": "normalise"}, STANDARDISE, **{"sampling-rate": 180.0})
    main = np.stack([recipe.decode(beat)[0] for beat in beats])
    (done,) = recipe.transform((main,), (recipe.fit(recipe.statistics((main,), ()), ()),))
    assert done.shape == (200, 1, 140)
    assert done.mean() == pytest.approx(0.0, abs=1e-4)
    assert done.std() == pytest.approx(1.0, rel=1e-3)
