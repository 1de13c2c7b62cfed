"""Metrics from summed counts equal scikit-learn's on the pooled predictions."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from wardround_shared.errors import RunError
from wardround_shared.evaluation import (
    BINS,
    calibration,
    confusion,
    count,
    counts_length,
    expected_calibration_error,
    metrics,
    roc,
)

CLASSES = ("a", "b", "c", "d", "e")


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def predictions(seed, n, k, scale=2.0, dtype=np.float32):
    """Predictions that know something about their labels; `scale` 60 saturates them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + np.eye(k)[labels]
    return softmax(scale * logits).astype(dtype), labels


def reference(p, y, k):
    """The same metrics by scikit-learn."""
    guess = p.argmax(axis=1)
    table = sk.confusion_matrix(y, guess, labels=range(k))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {
            "accuracy": sk.accuracy_score(y, guess),
            "balanced_accuracy": sk.balanced_accuracy_score(y, guess),
            "f1_macro": sk.f1_score(y, guess, average="macro"),
            "loss": sk.log_loss(y, np.clip(p, 1e-12, None), labels=range(k), normalize=True),
        }
    if k == 2:
        found["sensitivity"] = sk.recall_score(y, guess) if (y == 1).any() else None
        found["specificity"] = sk.recall_score(y, guess, pos_label=0) if (y == 0).any() else None
    assert table.sum() == len(y)
    return found


@st.composite
def cases(draw):
    k = draw(st.integers(2, 5))
    n = draw(st.integers(1, 60))
    scale = draw(st.sampled_from([0.1, 2.0, 60.0]))
    return (*predictions(draw(st.integers(0, 2**32)), n, k, scale), k)


class TestAgainstScikitLearn:
    @settings(max_examples=150, deadline=None)
    @given(cases())
    def test_every_metric_but_the_area(self, case):
        p, y, k = case
        found = metrics(count(p, y), CLASSES[:k])
        assert found["n"] == len(y)
        for name, expected in reference(p.astype(np.float64), y, k).items():
            if name == "loss":
                # scikit-learn normalises the rows, which float32 sums to 1 within 1e-7.
                assert found[name] == pytest.approx(expected, rel=1e-4, abs=1e-5)
            else:
                assert found[name] == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("k", [2, 3, 5])
    @pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
    def test_area_on_smooth_scores(self, k, scale):
        for seed in range(5):
            p, y = predictions(seed, 500, k, scale)
            truth = np.mean(
                [sk.roc_auc_score(y == c, p[:, c]) for c in (range(k) if k > 2 else [1])]
            )
            assert metrics(count(p, y), CLASSES[:k])["auroc"] == pytest.approx(truth, abs=2e-3)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_area_when_probabilities_saturate(self, dtype):
        # Half of these round to 0 or 1 when they are written with four digits; bins that are
        # uniform in the probability would throw them together.
        p, y = predictions(1, 2000, 2, scale=4.0, dtype=dtype)
        truth = sk.roc_auc_score(y, p[:, 1])
        assert metrics(count(p, y), CLASSES[:2])["auroc"] == pytest.approx(truth, abs=2e-3)

    @settings(max_examples=60, deadline=None)
    @given(cases())
    def test_area_is_exact_up_to_what_falls_into_one_bin(self, case):
        p, y, k = case
        assume(len(set(y)) == k)
        counts = count(p, y)
        found = metrics(counts, CLASSES[:k])["auroc"]
        errors, truths = [], []
        for number, c in enumerate(range(k) if k > 2 else [1]):
            pair = counts[2 + k * k + 2 * BINS * number :][: 2 * BINS].reshape(2, BINS)
            errors.append((pair[0] * pair[1]).sum() / pair[0].sum() / pair[1].sum() / 2)
            truths.append(sk.roc_auc_score(y == c, p[:, c].astype(np.float64)))
        assert abs(found - np.mean(truths)) <= np.mean(errors) + 1e-9


class TestArea:
    @pytest.mark.parametrize(
        ("scores", "labels", "expected"),
        [
            ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
            ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 0.0),
            ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1], 0.5),  # ties count half
            ([0.3, 0.5, 0.5, 0.7], [0, 0, 1, 1], 0.875),
            ([0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1], 1.0),  # beyond the last bins
            ([0.0, 1.0, 1.0, 1.0], [0, 0, 1, 1], 0.75),
        ],
    )
    def test_is_exact_on_scores_apart_or_equal(self, scores, labels, expected):
        p = np.stack([1 - np.array(scores), scores], axis=1)
        assert metrics(count(p, labels), ("a", "b"))["auroc"] == expected

    def test_tells_certain_from_more_certain(self):
        # In float32 both are 1; what the other class got still tells them apart.
        p = np.array([[1e-4, 1.0], [1e-9, 1.0]], dtype=np.float32)
        assert metrics(count(p, [0, 1]), ("a", "b"))["auroc"] == 1.0

    def test_does_not_depend_on_which_class_is_asked_for(self):
        p, y = predictions(4, 300, 2)
        mirrored = metrics(count(p[:, ::-1], 1 - y), ("b", "a"))["auroc"]
        assert metrics(count(p, y), ("a", "b"))["auroc"] == pytest.approx(mirrored, abs=1e-3)


class TestSites:
    @settings(max_examples=40, deadline=None)
    @given(cases(), st.integers(1, 5))
    def test_counts_add_over_sites(self, case, sites):
        p, y, k = case
        parts = [count(p[s::sites], y[s::sites]) for s in range(sites)]
        total = np.sum(parts, axis=0)
        pooled = count(p, y)
        assert total.shape == (counts_length(k),)
        np.testing.assert_allclose(total, pooled, rtol=1e-9)
        np.testing.assert_array_equal(np.delete(total, 1), np.delete(pooled, 1))

    @pytest.mark.parametrize("k", [2, 3])
    def test_a_site_without_examples_adds_nothing(self, k):
        nothing = count(np.empty((0, k), dtype=np.float32), np.empty(0, dtype=np.int64))
        assert nothing.shape == (counts_length(k),)
        assert not nothing.any()

    def test_lengths(self):
        assert counts_length(2) == 2 + 4 + 2 * 1024
        assert counts_length(3) == 2 + 9 + 3 * 2 * 1024
        with pytest.raises(ValueError, match="two classes"):
            counts_length(1)


class TestUndefined:
    @pytest.mark.parametrize("k", [2, 3])
    def test_nothing_at_all(self, k):
        found = metrics(np.zeros(counts_length(k)), CLASSES[:k])
        assert found.pop("n") == 0
        assert set(found.values()) == {None}
        assert len(found) == 7
        assert expected_calibration_error(np.zeros(counts_length(k)), k, 1) is None

    @pytest.mark.parametrize("only", [0, 1])
    def test_one_of_two_classes(self, only):
        p, _ = predictions(0, 40, 2)
        y = np.full(40, only)
        found = metrics(count(p, y), CLASSES[:2])
        share = float((p.argmax(axis=1) == only).mean())
        assert found["auroc"] is None
        assert found["accuracy"] == found["balanced_accuracy"] == pytest.approx(share)
        assert found["sensitivity"] == (pytest.approx(share) if only == 1 else None)
        assert found["specificity"] == (pytest.approx(share) if only == 0 else None)
        assert np.isnan(np.concatenate(roc(count(p, y), 2, 1))).sum() == BINS + 1

    def test_one_of_three_classes_missing(self):
        p, y = predictions(0, 200, 3)
        p, y = p[y != 2], y[y != 2]
        found = metrics(count(p, y), CLASSES[:3])
        truth = np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in (0, 1)])
        assert found["auroc"] == pytest.approx(truth, abs=2e-3)
        assert found["sensitivity"] == found["balanced_accuracy"]


def test_macro_means_of_three_classes():
    table = np.array([[5, 1, 0], [2, 3, 1], [0, 2, 6]])
    y, guess = (np.repeat(axis.ravel(), table.ravel()) for axis in np.indices((3, 3)))
    found = metrics(count(np.eye(3)[guess], y), CLASSES[:3])
    np.testing.assert_array_equal(confusion(count(np.eye(3)[guess], y), 3), table)
    assert found["sensitivity"] == pytest.approx(np.mean([5 / 6, 3 / 6, 6 / 8]))
    assert found["specificity"] == pytest.approx(np.mean([12 / 14, 11 / 14, 11 / 12]))


class TestCurves:
    @pytest.mark.parametrize(("k", "c"), [(2, 1), (2, 0), (3, 2)])
    def test_roc_has_a_point_at_every_border_of_bins(self, k, c):
        p, y = predictions(7, 2000, k)
        false, true = roc(count(p, y), k, c)
        assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
        assert (np.diff(false) >= 0).all()
        assert (np.diff(true) >= 0).all()
        # Each point is the rate of scores at or above the border of a bin, from high to low.
        border = 1 / (1 + np.exp(-np.linspace(12, -12, BINS + 1)))
        for rate, of in ((false, y != c), (true, y == c)):
            expected = [(p[of, c] >= b).mean() for b in border[1:-1]]
            np.testing.assert_allclose(rate[1:-1], expected, atol=2e-3)
        assert np.trapezoid(true, false) == pytest.approx(
            sk.roc_auc_score(y == c, p[:, c]), abs=2e-3
        )

    @pytest.mark.parametrize(("k", "c"), [(2, 1), (2, 0), (3, 1)])
    def test_calibration_groups_by_predicted_probability(self, k, c):
        p, y = predictions(8, 5000, k, scale=1.0)
        found = calibration(count(p, y), k, c, groups=10)
        assert found.n.sum() == 5000
        assert ((found.observed >= 0) & (found.observed <= 1)).all()
        group = np.minimum((p[:, c] * 10).astype(int), 9)
        assert len(found.n) == len(set(group))
        for number, index in enumerate(sorted(set(group))):
            inside = group == index
            # A bin of the histogram may straddle the border of two groups.
            assert found.n[number] == pytest.approx(inside.sum(), abs=40)
            assert found.predicted[number] == pytest.approx(p[inside, c].mean(), abs=0.01)
            assert found.observed[number] == pytest.approx((y[inside] == c).mean(), abs=0.06)

    def test_a_calibrated_model_has_no_calibration_error_and_a_boastful_one_has(self):
        rng = np.random.default_rng(9)
        score = rng.uniform(size=40_000)
        y = (rng.uniform(size=40_000) < score).astype(int)
        honest = np.stack([1 - score, score], axis=1)
        assert expected_calibration_error(count(honest, y), 2, 1) < 0.015
        boastful = np.where(score > 0.5, 0.999, 0.001)
        both = np.stack([1 - boastful, boastful], axis=1)
        assert expected_calibration_error(count(both, y), 2, 1) == pytest.approx(0.25, abs=0.02)


class TestRefusals:
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_model_that_has_diverged(self, bad):
        p, y = predictions(0, 5, 2)
        p[2, 1] = bad
        with pytest.raises(RunError, match="diverged"):
            count(p, y)

    @pytest.mark.parametrize("labels", [[0, 2], [-1, 0], [0.0, 1.0], [0], [[0, 1]]])
    def test_labels_that_do_not_fit(self, labels):
        with pytest.raises(ValueError, match="labels"):
            count(np.full((2, 2), 0.5), labels)

    def test_counts_of_other_classes(self):
        with pytest.raises(ValueError, match="length"):
            metrics(np.zeros(counts_length(2)), CLASSES[:3])
