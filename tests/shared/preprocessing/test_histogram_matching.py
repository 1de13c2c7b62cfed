"""Each image's landmarks are mapped onto the mean over all sites, whatever the scanner's scale."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wardround_shared.errors import CohortError
from wardround_shared.preprocessing import recipe as recipe_module
from wardround_shared.preprocessing.histogram_matching import PERCENTILES, HistogramMatching

MATCH = {"name": "match-histogram"}
STEP = HistogramMatching()
# Whole intensities are exact in float32 under the gains and offsets below.
PIXELS = st.integers(0, 255).map(np.float32)
IMAGES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 6), st.just(1), st.integers(1, 6), st.integers(2, 9)),
    elements=PIXELS,
)
ASCENDING = hnp.arrays(np.float64, 9, elements=st.floats(0.0, 1.0)).map(np.sort)


def fit(*sites):
    return STEP.fit(sum(STEP.sums(site) for site in sites))


def photographs(count, seed=0, size=16):
    """Images of a skewed histogram, [n, 1, H, W]."""
    shape = (count, 1, size, size)
    return np.random.default_rng(seed).gamma(2.0, 50.0, shape).astype(np.float32)


@given(images=IMAGES, inner=ASCENDING)
def test_what_is_brighter_stays_at_least_as_bright(images, inner):
    done = STEP.apply(images, {"landmarks": inner})
    for before, after in zip(images, done, strict=True):
        order = np.argsort(before, axis=None, kind="stable")
        assert (np.diff(after.ravel()[order]) >= -1e-6).all()
    assert ((done >= 0.0) & (done <= 1.0)).all()
    assert done.shape == images.shape
    assert done.dtype == images.dtype


@given(
    images=IMAGES,
    gain=st.sampled_from([0.25, 2.0, 16.0, 1000.0]),
    offset=st.integers(-1024, 1024),
)
def test_another_gain_and_offset_change_nothing(images, gain, offset):
    other = (images * np.float32(gain) + np.float32(offset)).astype(np.float32)
    np.testing.assert_allclose(STEP.sums(other), STEP.sums(images), rtol=1e-9, atol=1e-9)
    fitted = fit(images)
    np.testing.assert_allclose(STEP.apply(other, fitted), STEP.apply(images, fitted), atol=1e-5)


def test_scanners_of_different_ranges_meet():
    """Plain standardisation leaves them apart: its constants are those of both together."""
    near, far = photographs(40, seed=1), photographs(40, seed=2) * 30 - 1000
    done = [STEP.apply(site, fit(near, far)) for site in (near, far)]
    np.testing.assert_allclose(done[0].mean(), done[1].mean(), atol=0.02)
    np.testing.assert_allclose(done[0].std(), done[1].std(), atol=0.02)


def test_curves_of_scanners_are_undone_and_not_only_ranges():
    """A gamma curve is no gain and offset; piecewise linearly it is straightened all the same."""
    flat = photographs(30, seed=3)
    flat = flat / flat.max(axis=(1, 2, 3), keepdims=True)
    curved = np.sqrt(flat)
    fitted = fit(flat, curved)
    linear = [(x - x.min()) / (x.max() - x.min()) for x in (flat, curved)]
    apart = np.abs(linear[0] - linear[1]).mean()
    matched = np.abs(STEP.apply(flat, fitted) - STEP.apply(curved, fitted)).mean()
    assert matched < 0.05 * apart


def test_landmarks_of_a_known_image_are_what_they_are():
    """A ramp has its percentiles at their own places, from the first to the last."""
    ramp = np.arange(101, dtype=np.float32).reshape(1, 1, 1, 101)
    expected = (np.array(PERCENTILES[1:-1]) - 1.0) / 98.0
    np.testing.assert_allclose(STEP.sums(ramp), [1.0, *expected])
    np.testing.assert_allclose(fit(ramp, ramp * 7 + 3)["landmarks"], expected)


def test_own_landmarks_become_the_mean_ones_and_the_ends_are_clipped():
    ramp = np.arange(101, dtype=np.float32).reshape(1, 1, 1, 101)
    inner = np.linspace(0.5, 0.9, 9)
    done = STEP.apply(ramp, {"landmarks": inner})[0, 0, 0]
    np.testing.assert_allclose(done[[10, 20, 50, 90]], inner[[0, 1, 4, 8]], rtol=1e-6)
    np.testing.assert_allclose(done[15], inner[:2].mean(), rtol=1e-6)
    assert done[0] == done[1] == 0.0
    assert done[99] == done[100] == 1.0


@given(images=IMAGES, cut=st.integers(0, 6))
def test_sums_over_sites_are_those_of_all_images(images, cut):
    parts = STEP.sums(images[:cut]) + STEP.sums(images[cut:])
    np.testing.assert_allclose(parts, STEP.sums(images), rtol=1e-12)


def test_chunks_do_not_matter(make_recipe, monkeypatch, tmp_path):
    recipe = make_recipe("image", MATCH, {"name": "standardise"})
    np.save(tmp_path / "images.npy", photographs(30))
    images = np.load(tmp_path / "images.npy", mmap_mode="r")

    def done():
        fitted = ()
        for _ in recipe.needs_fit:
            fitted = (*fitted, recipe.fit(recipe.statistics((images,), fitted), fitted))
        return recipe.transform((images,), fitted)[0]

    whole = done()
    monkeypatch.setattr(recipe_module, "_CHUNK_VALUES", 3 * 16 * 16)
    np.testing.assert_allclose(done(), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "image",
    [
        np.full((1, 5, 5), 7.0),
        np.zeros((3, 4, 4)),
        np.full((1, 5, 5), 1e30),
        np.full((1, 5, 5), 1000.0) + np.linspace(0, 1e-4, 25).reshape(1, 5, 5),
        np.where(np.arange(400).reshape(1, 20, 20) == 17, 255.0, 0.0),
    ],
    ids=["even", "black", "huge", "rounding errors", "one bright pixel"],
)
def test_an_image_without_contrast_is_not_counted_and_becomes_zeros(image):
    images = np.stack([image]).astype(np.float32)
    assert not STEP.sums(images).any()
    assert not STEP.apply(images, fit(images)).any()


def test_an_even_background_stays_black_and_an_even_foreground_bright():
    image = np.full((1, 1, 20, 20), 40.0, np.float32)
    image[..., :8, :] = 0.0
    image[..., 18:, :] = 90.0
    done = STEP.apply(image, {"landmarks": np.linspace(0.1, 0.9, 9)})
    assert (done[..., :8, :] == 0.0).all()
    assert (done[..., 18:, :] == 1.0).all()
    # It is the 50th percentile and the 80th, and those between.
    np.testing.assert_allclose(done[..., 8:18, :], 0.65, rtol=1e-6)


def test_colours_keep_their_balance():
    image = photographs(1, size=30).reshape(1, 3, 10, 30)
    image[:, 1] = image[:, 0]
    done = STEP.apply(image, fit(image))
    np.testing.assert_array_equal(done[:, 1], done[:, 0])


def test_nothing_is_asked_of_no_images(make_recipe):
    none = np.zeros((0, 1, 8, 8), np.float32)
    assert STEP.sums(none).shape == (STEP.length((1, 8, 8)),)
    assert not STEP.sums(none).any()
    assert np.isfinite(fit(none)["landmarks"]).all()
    assert STEP.apply(none, fit(none)).shape == none.shape
    recipe = make_recipe("image", MATCH)
    assert recipe.statistics_length([(1, 8, 8)], ()) == 10
    assert recipe.output_shapes([(1, 8, 8)]) == ((1, 8, 8),)


def test_sums_that_are_not_finite_are_refused():
    with pytest.raises(CohortError, match="match-histogram"):
        STEP.fit(np.full(10, np.nan))
