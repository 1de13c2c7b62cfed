"""Dice by image, and what adds over sites."""

import numpy as np
import pytest
import torch

from wardround_shared.errors import RunError
from wardround_shared.tasks import Segmentation

TASK = Segmentation(("outside", "liver", "lesion"))


def _certain(masks):
    """Logits that give each pixel its class."""
    return (
        50.0 * torch.nn.functional.one_hot(torch.as_tensor(masks).long(), 3).movedim(3, 1).double()
    )


def _masks(n=30, seed=0):
    random = np.random.default_rng(seed)
    masks = np.zeros((n, 16, 16), np.uint8)
    for mask in masks:
        row, column, size = random.integers(0, 8, size=3)
        mask[row : row + size + 1, column : column + 4] = 1
        if random.random() < 0.5:
            mask[row, column : column + 2] = 2
    return masks


def _dice(found, true):
    return 2 * (found & true).sum() / (found.sum() + true.sum())


def test_dice_is_the_mean_over_images_with_the_class():
    true, found = _masks(), _masks(seed=1)
    measured = TASK.metrics(TASK.count(TASK.predictions(_certain(found)).numpy(), true))
    for k, name in ((1, "liver"), (2, "lesion")):
        each = [_dice(f == k, t == k) for f, t in zip(found, true, strict=True) if (t == k).any()]
        assert measured[f"dice {name}"] == pytest.approx(np.mean(each), abs=1e-3)
    assert measured["dice"] == pytest.approx((measured["dice liver"] + measured["dice lesion"]) / 2)
    clean = [(f == 2).any() for f, t in zip(found, true, strict=True) if not (t == 2).any()]
    assert measured["specificity"] == pytest.approx(1 - np.mean(clean))


def test_a_perfect_answer_and_an_empty_one():
    true = _masks()
    perfect = TASK.metrics(TASK.count(TASK.predictions(_certain(true)).numpy(), true))
    assert (perfect["dice"], perfect["specificity"], perfect["n"]) == (1.0, 1.0, 30)
    assert perfect["loss"] == pytest.approx(0.0, abs=1e-6)
    nothing = TASK.count(TASK.predictions(_certain(np.zeros_like(true))).numpy(), true)
    assert TASK.metrics(nothing)["dice"] < 1e-3


def test_the_loss_falls_with_the_overlap_and_is_each_images_own():
    true = torch.from_numpy(_masks(6))
    outputs = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    together = TASK.loss(outputs, true, None)
    alone = [TASK.loss(o[None], t[None], None).item() for o, t in zip(outputs, true, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert (TASK.loss(_certain(true), true, None) < together).all()


def test_counts_of_the_whole_are_the_sum_of_the_parts_and_within_the_bounds():
    true, outputs = _masks(20), torch.randn(20, 3, 16, 16)
    found = TASK.predictions(outputs).numpy()
    whole = TASK.count(found, true)
    np.testing.assert_allclose(
        whole, TASK.count(found[:7], true[:7]) + TASK.count(found[7:], true[7:])
    )
    assert whole.shape == (TASK.counts_length,)
    worst = TASK.count(TASK.predictions(_certain(2 - true[:1])).numpy(), true[:1])
    assert np.delete(worst, 1).max() <= TASK.largest_count
    assert 0 < worst[1] <= TASK.largest_loss
    assert not TASK.count(found[:0], true[:0]).any()


def test_what_is_nowhere_has_no_dice():
    true = np.zeros((4, 16, 16), np.uint8)
    measured = TASK.metrics(TASK.count(TASK.predictions(_certain(true)).numpy(), true))
    assert measured["dice"] is None
    assert measured["specificity"] == 1.0
    assert TASK.tally(true) == {"liver": 0, "lesion": 0}


def test_a_model_that_has_diverged_is_told():
    with pytest.raises(RunError, match="diverged"):
        TASK.count(np.full((1, 3, 4, 4), np.nan), np.zeros((1, 4, 4), np.uint8))
