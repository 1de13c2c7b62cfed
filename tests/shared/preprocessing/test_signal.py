"""Known answers for the record steps of signals."""

import numpy as np
import pytest

from wardround_shared.errors import UnreadableError
from wardround_shared.preprocessing.signal import band_pass, centre, resample

RATE = 250.0
SECONDS = np.arange(0, 20, 1 / RATE)


def sine(hertz: float, seconds: np.ndarray = SECONDS) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * seconds)[None]


def middle(samples: np.ndarray) -> np.ndarray:
    """Without the first and last 4 s, where a filter has not settled."""
    return samples[:, int(4 * RATE) : -int(4 * RATE)]


def test_the_band_passes_and_everything_outside_does_not():
    filtered = band_pass(sine(1.0), RATE, (0.5, 40.0), 3)
    np.testing.assert_allclose(middle(filtered), middle(sine(1.0)), atol=0.05)
    for outside in (0.05, 100.0):
        assert np.abs(middle(band_pass(sine(outside), RATE, (0.5, 40.0), 3))).max() < 0.02


def test_the_band_pass_removes_a_baseline_even_at_the_ends():
    filtered = band_pass(sine(1.0) + 500.0, RATE, (0.5, 40.0), 3)
    assert np.abs(filtered).max() < 2.0


def test_the_band_pass_does_not_delay():
    spike = np.exp(-(((SECONDS - 10.0) / 0.05) ** 2))[None]
    assert abs(int(band_pass(spike, RATE, (0.5, 40.0), 3).argmax()) - int(spike.argmax())) <= 1


@pytest.mark.parametrize(("old", "new"), [(360.0, 180.0), (250.0, 360.0), (257.3, 128.0)])
def test_a_resampled_sine_is_the_sine_at_the_new_rate(old, new):
    resampled = resample(sine(2.0, np.arange(0, 10, 1 / old)), old, new)
    expected = sine(2.0, np.arange(resampled.shape[1]) / new)
    away_from_ends = slice(int(new), -int(new))
    np.testing.assert_allclose(resampled[:, away_from_ends], expected[:, away_from_ends], atol=0.02)
    assert resampled.shape[1] == pytest.approx(10 * new, rel=1e-3)


def test_resampling_does_not_alias():
    high = resample(sine(150.0, np.arange(0, 10, 1 / 360)), 360.0, 180.0)
    assert np.abs(high[:, 180:-180]).max() < 0.05


def test_a_baseline_survives_resampling_at_the_ends_too():
    flat = resample(np.full((1, 400), 1000.0), 360.0, 250.0)
    np.testing.assert_allclose(flat, 1000.0, rtol=1e-3)


def test_centring_gives_median_zero_and_unit_spread_whatever_the_gain():
    samples = np.random.default_rng(0).normal(size=(2, 500)) * [[1.0], [300.0]] + 40.0
    centred = centre(samples)
    np.testing.assert_allclose(np.median(centred, axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(centred.std(axis=1), 1.0)
    np.testing.assert_allclose(centre(5.0 * samples - 7.0), centred)


def test_a_flat_lead_becomes_zeros():
    assert not centre(np.full((1, 100), 0.1)).any()


def test_steps_follow_the_order_of_the_study(make_recipe):
    recipe = make_recipe(
        "signal",
        {"name": "resample", "rate": 180.0},
        {"name": "crop", "start": 10, "length": 90},
        {"name": "normalise"},
    )
    samples = np.random.default_rng(0).integers(-500, 500, 360).astype(np.int16)
    (decoded,) = recipe.decode(samples)
    assert decoded.shape == (1, 90)
    assert decoded.dtype == np.float32
    assert decoded.std() == pytest.approx(1.0, rel=1e-5)


def test_the_rate_of_the_record_wins_over_the_study(make_recipe):
    recipe = make_recipe("signal", {"name": "resample", "rate": 90.0})
    assert recipe.decode(np.zeros(360))[0].shape == (1, 90)
    assert recipe.decode(np.zeros(360), sampling_rate=180.0)[0].shape == (1, 180)


@pytest.mark.parametrize(
    ("source", "step", "samples", "fault"),
    [
        ("signal", {"name": "crop", "length": 50}, np.zeros(49), "too short"),
        ("signal", {"name": "band-pass", "low": 0.5, "high": 40.0}, np.zeros(20), "too short"),
        ("signal", {"name": "normalise"}, np.array([1.0, np.nan]), "missing"),
        ("signal", {"name": "normalise"}, np.zeros((2, 3, 4)), "shape"),
        ("signal", {"name": "normalise"}, np.zeros(0), "shape"),
        ("signal", {"name": "resample", "rate": 0.001}, np.zeros(100), "cannot become"),
        ("wfdb", {"name": "resample", "rate": 100.0}, np.zeros(100), "not known"),
    ],
)
def test_a_signal_that_does_not_do_is_unreadable(make_recipe, source, step, samples, fault):
    with pytest.raises(UnreadableError, match=fault):
        make_recipe(source, step).decode(samples)


def test_a_record_sampled_too_slowly_for_the_band_is_unreadable(make_recipe):
    recipe = make_recipe("wfdb", {"name": "band-pass", "low": 0.5, "high": 40.0})
    recipe.decode(np.zeros(1000), sampling_rate=250.0)
    with pytest.raises(UnreadableError, match="too low"):
        recipe.decode(np.zeros(1000), sampling_rate=80.0)
