"""Histogram standardisation over hospitals: its landmarks come from masked sums, exactly."""

import numpy as np
import pytest
from federations import Silent, arrays_of, settings_of

from wardround_simulations.evaluation import evaluate_run, open_run
from wardround_simulations.federation import simulate
from wardround_simulations.options import find_study

SHORT = (
    "privacy.mechanism=none",
    "training.rounds=1",
    "training.local-epochs=1",
    "data.sites=3",
    "data.patients-per-site=12",
    "data.size=32",
    "preprocessing.steps=[{name='match-histogram'}, {name='standardise'}]",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same study with secure aggregation and without."""
    folder = tmp_path_factory.mktemp("matched")
    found = {}
    for secure in ("true", "false"):
        overrides = (*SHORT, f"aggregation.secure={secure}")
        settings = settings_of(find_study("phantom"), None, folder / secure, *overrides)
        assert simulate(settings, Silent())["status"] == "complete"
        found[secure] = folder / secure
    return found


def test_the_landmarks_are_the_same_under_masks(runs):
    secure, clear = (arrays_of(runs[key]) for key in ("true", "false"))
    (name,) = [name for name in secure if "landmarks" in name]
    landmarks = secure[name]
    assert landmarks.shape == (9,)
    assert (np.diff(landmarks) > 0.0).all()
    assert 0.0 < landmarks[0] < landmarks[-1] < 1.0
    np.testing.assert_allclose(landmarks, clear[name], rtol=1e-12)


def test_a_kept_model_takes_its_landmarks_to_other_patients(runs, tmp_path):
    kept = open_run(runs["true"]).fitted[0]
    (trained_with,) = [a for name, a in arrays_of(runs["true"]).items() if "landmarks" in name]
    np.testing.assert_array_equal(kept["landmarks"], trained_with)
    measured = evaluate_run(runs["true"], None, cache=tmp_path / "cache")
    assert measured["metrics"]["n"] == 36
