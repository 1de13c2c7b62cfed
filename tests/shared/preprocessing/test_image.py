"""Known answers for the record steps of images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_shared.errors import UnreadableError
from wardround_shared.preprocessing.image import histogram, resize, stretch, window

RAMP = np.arange(64, dtype=np.float32).reshape(1, 8, 8)


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers()
)
def test_resizing_keeps_the_mean_and_a_constant_image(height, width, new_height, new_width, seed):
    pixels = np.random.default_rng(abs(seed)).random((3, height, width)).astype(np.float32)
    resized = resize(pixels, (new_height, new_width))
    assert resized.shape == (3, new_height, new_width)
    np.testing.assert_allclose(resized.mean((1, 2)), pixels.mean((1, 2)), rtol=1e-4)
    constant = resize(np.full_like(pixels, 7.0), (new_height, new_width))
    np.testing.assert_allclose(constant, 7.0, rtol=1e-5)


def test_halving_an_image_averages_blocks_of_four():
    np.testing.assert_allclose(
        resize(RAMP, (4, 4)), RAMP.reshape(1, 4, 2, 4, 2).mean((2, 4)), rtol=1e-6
    )


def test_a_new_pixel_weighs_old_ones_by_the_area_it_covers():
    row = np.array([[[0.0, 3.0, 6.0]]], dtype=np.float32)
    np.testing.assert_allclose(resize(row, (1, 2)), [[[1.0, 5.0]]], rtol=1e-6)


def test_a_window_maps_its_edges_to_zero_and_one_and_clips():
    hounsfield = np.array([[[-1000.0, -160.0, 40.0, 240.0, 3000.0]]], dtype=np.float32)
    np.testing.assert_allclose(window(hounsfield, -160.0, 240.0), [[[0, 0, 0.5, 1, 1]]])


def test_stretching_ignores_gain_offset_and_outliers():
    pixels = np.random.default_rng(0).random((1, 50, 50)).astype(np.float32)
    marked = pixels.copy()
    marked[0, :2, :2] = 100.0
    np.testing.assert_allclose(
        stretch(3.0 * pixels + 5.0, 1.0, 99.0), stretch(pixels, 1.0, 99.0), atol=1e-5
    )
    np.testing.assert_allclose(
        stretch(marked, 1.0, 99.0)[0, 2:], stretch(pixels, 1.0, 99.0)[0, 2:], atol=0.01
    )


def test_an_image_without_contrast_becomes_zeros():
    assert not stretch(np.full((1, 8, 8), 9.0, np.float32), 1.0, 99.0).any()


def test_a_histogram_holds_shares_of_all_pixels():
    pixels = np.array([[[-5.0, 0.1, 0.2, 0.6, 0.9, 0.9, 0.9, 7.0]]], dtype=np.float32)
    np.testing.assert_allclose(histogram(pixels, 0.0, 1.0, 2), [2 / 8, 4 / 8])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16])
def test_integer_images_come_out_between_zero_and_one(make_recipe, kind):
    limits = np.iinfo(kind)
    image = np.array([[limits.min, limits.max]], dtype=kind)
    (pixels,) = make_recipe("image").decode(image)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, [[[0.0, 1.0]]])


def test_a_window_sees_the_intensities_of_the_file(make_recipe):
    recipe = make_recipe("image", {"name": "window", "low": 0.0, "high": 100.0})
    (pixels,) = recipe.decode(np.array([[50, 200]], dtype=np.uint8))
    np.testing.assert_allclose(pixels, [[[0.5, 1.0]]])


def test_colour_images_get_their_channels_first(make_recipe):
    image = np.zeros((4, 5, 3), dtype=np.uint8)
    image[..., 2] = 255
    (pixels,) = make_recipe("image").decode(image)
    assert pixels.shape == (3, 4, 5)
    assert pixels[2].min() == 1.0
    assert pixels[:2].max() == 0.0


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 4), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4), np.uint8),
        np.full((4, 4), np.nan, np.float32),
    ],
)
def test_what_is_no_image_is_unreadable(make_recipe, image):
    with pytest.raises(UnreadableError, match="the image"):
        make_recipe("image").decode(image)
