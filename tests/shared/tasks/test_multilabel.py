"""Several findings at once: each as scikit-learn has it, and what adds over sites."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from wardround_shared.errors import RunError
from wardround_shared.tasks import MultiLabel

TASK = MultiLabel(("MI", "CD", "HYP"))


def _some(n=300, seed=0):
    random = np.random.default_rng(seed)
    truth = (random.random((n, 3)) < [0.5, 0.3, 0.1]).astype(np.uint8)
    logits = random.normal(size=(n, 3)) + 1.5 * truth
    return torch.from_numpy(logits), truth


def test_metrics_are_means_of_each_findings_own():
    logits, truth = _some()
    probabilities = torch.sigmoid(logits).numpy()
    measured = TASK.metrics(TASK.count(TASK.predictions(logits).numpy(), truth))
    areas = [sk.roc_auc_score(truth[:, k], probabilities[:, k]) for k in range(3)]
    assert measured["auroc"] == pytest.approx(np.mean(areas), abs=2e-3)
    assert measured["auroc HYP"] == pytest.approx(areas[2], abs=2e-3)
    assert measured["f1_macro"] == pytest.approx(
        sk.f1_score(truth, probabilities > 0.5, average="macro")
    )
    assert measured["sensitivity"] == pytest.approx(
        sk.recall_score(truth, probabilities > 0.5, average="macro")
    )
    assert measured["loss"] == pytest.approx(
        np.mean([sk.log_loss(truth[:, k], probabilities[:, k]) for k in range(3)])
    )
    assert measured["n"] == 300


def test_the_loss_is_that_of_each_example_alone():
    logits, truth = _some(8)
    loss = TASK.loss(logits, torch.from_numpy(truth), None)
    expected = -torch.log(torch.sigmoid(torch.where(torch.from_numpy(truth) > 0, logits, -logits)))
    np.testing.assert_allclose(loss, expected.mean(dim=1))


def test_counts_of_the_whole_are_the_sum_of_the_parts_and_within_the_bounds():
    logits, truth = _some(40, seed=1)
    predictions = TASK.predictions(logits).numpy()
    whole = TASK.count(predictions, truth)
    np.testing.assert_allclose(
        whole, TASK.count(predictions[:15], truth[:15]) + TASK.count(predictions[15:], truth[15:])
    )
    one = TASK.count(predictions[:1], truth[:1])
    assert one.shape == (TASK.counts_length,)
    assert np.delete(one, 1).max() <= TASK.largest_count
    assert TASK.count(predictions[:0], truth[:0]).shape == (TASK.counts_length,)


def test_an_example_may_have_no_finding_or_all():
    truth = np.array([[0, 0, 0], [1, 1, 1]], np.uint8)
    assert TASK.tally(truth) == {"MI": 1, "CD": 1, "HYP": 1}
    logits = torch.tensor([[-3.0, -3.0, -3.0], [3.0, 3.0, 3.0]])
    assert TASK.metrics(TASK.count(TASK.predictions(logits).numpy(), truth))["auroc"] == 1.0


def test_a_finding_that_nobody_has_is_left_out_of_the_mean():
    logits, truth = _some()
    truth[:, 2] = 0
    measured = TASK.metrics(TASK.count(TASK.predictions(logits).numpy(), truth))
    assert measured["auroc HYP"] is None
    assert measured["auroc"] == pytest.approx((measured["auroc MI"] + measured["auroc CD"]) / 2)


def test_a_model_that_has_diverged_is_told():
    with pytest.raises(RunError, match="diverged"):
        TASK.count(
            TASK.predictions(torch.full((1, 3), torch.nan)).numpy(), np.ones((1, 3), np.uint8)
        )
