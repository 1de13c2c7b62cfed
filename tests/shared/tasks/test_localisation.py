"""Marks, hits and false marks by hand, and the FROC curve that they add up to."""

import numpy as np
import pytest
import torch

from wardround_shared.errors import RunError
from wardround_shared.tasks import Localisation
from wardround_shared.tasks.localisation import MARKS, froc

TASK = Localisation(most=2)
NONE = [np.nan] * 3


def _targets(*images):
    return np.array(images, dtype=np.float32)


def _marks(*images):
    """Marks [N, P, 3] from lists of (row, column, logit), the highest first."""
    found = np.full((len(images), MARKS, 3), -np.inf)
    for image, marks in zip(found, images, strict=True):
        image[: len(marks)] = marks or image[:0]
    return found


ONE = _targets([[0.5, 0.5, 0.1], NONE])
TWO = _targets([[0.2, 0.2, 0.1], [0.8, 0.8, 0.1]])


def test_a_mark_within_the_radius_finds_the_lesion_and_one_beside_it_is_false():
    inside = TASK.metrics(TASK.count(_marks([(0.55, 0.55, 1.0)]), ONE))
    beside = TASK.metrics(TASK.count(_marks([(0.65, 0.5, 1.0)]), ONE))
    assert (inside["sensitivity"], inside["froc"]) == (1.0, 1.0)
    assert (beside["sensitivity"], beside["froc"]) == (0.0, 0.0)


def test_a_second_mark_on_the_same_lesion_is_neither_a_hit_nor_false():
    twice = TASK.count(_marks([(0.5, 0.5, 2.0), (0.52, 0.5, 1.0)]), ONE)
    assert twice[3:].sum() == 1
    both = TASK.count(_marks([(0.2, 0.2, 2.0), (0.8, 0.8, -1.0)]), TWO)
    assert TASK.metrics(both)["sensitivity"] == 1.0


def test_the_curve_by_hand():
    """Four images: two lesions found at 3 and at 1, false marks at 2 and at 0, one not found."""
    targets = np.concatenate([ONE, ONE, ONE, _targets([NONE, NONE])])
    marks = _marks([(0.5, 0.5, 3.0)], [(0.5, 0.5, 1.0)], [(0.1, 0.1, 2.0)], [(0.9, 0.9, 0.0)])
    counts = TASK.count(marks, targets)
    false, found = froc(counts)
    points = list(dict.fromkeys(zip(false.tolist(), np.round(found, 4).tolist(), strict=True)))
    assert points == [(0.0, 0.0), (0.0, 0.3333), (0.25, 0.3333), (0.25, 0.6667), (0.5, 0.6667)]
    measured = TASK.metrics(counts)
    assert (measured["n"], measured["lesions"]) == (4, 3)
    assert measured["sensitivity"] == pytest.approx(2 / 3)


def test_peaks_of_a_heat_map_are_the_marks_the_highest_first():
    heat = torch.full((1, 1, 40, 40), -5.0)
    heat[0, 0, 10, 20], heat[0, 0, 30, 5], heat[0, 0, 30, 6] = 3.0, 4.0, 3.9
    marks = TASK.predictions(heat)[0]
    np.testing.assert_allclose(marks[0], [30.5 / 40, 5.5 / 40, 4.0])
    np.testing.assert_allclose(marks[1], [10.5 / 40, 20.5 / 40, 3.0])
    assert (marks[2:, 2] < 3.0).all()  # the neighbour of the highest is no peak of its own


def test_the_loss_is_least_where_the_heat_is_on_the_lesion_and_each_images_own():
    right, wrong = torch.full((1, 1, 32, 32), -6.0), torch.full((1, 1, 32, 32), -6.0)
    right[0, 0, 16, 16], wrong[0, 0, 3, 3] = 6.0, 6.0
    target = torch.from_numpy(ONE)
    assert TASK.loss(right, target, None) < 0.1 < TASK.loss(wrong, target, None)
    outputs = torch.randn(3, 1, 32, 32)
    targets = torch.from_numpy(np.concatenate([ONE, TWO, _targets([NONE, NONE])]))
    together = TASK.loss(outputs, targets, None)
    alone = [
        TASK.loss(o[None], t[None], None).item() for o, t in zip(outputs, targets, strict=True)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert torch.isfinite(together).all()


def test_counts_add_and_stay_within_the_bounds():
    generator = torch.Generator().manual_seed(1)
    marks = TASK.predictions(torch.randn(9, 1, 24, 24, generator=generator)).numpy()
    targets = np.concatenate([TWO, ONE, _targets([NONE, NONE])] * 3)
    whole = TASK.count(marks, targets)
    np.testing.assert_array_equal(
        whole, TASK.count(marks[:4], targets[:4]) + TASK.count(marks[4:], targets[4:])
    )
    assert whole.shape == (TASK.counts_length,)
    same = _marks([(0.01 * k, 0.9, 1.0) for k in range(MARKS)])
    assert TASK.count(same, ONE).max() == TASK.largest_count
    assert not TASK.count(marks[:0], targets[:0]).any()


def test_without_a_lesion_there_is_no_sensitivity():
    assert TASK.metrics(TASK.count(_marks([]), _targets([NONE, NONE])))["froc"] is None
    assert TASK.tally(np.concatenate([TWO, ONE])) == {"images with a lesion": 2, "lesions": 3}


def test_a_model_that_has_diverged_is_told():
    with pytest.raises(RunError, match="diverged"):
        TASK.count(TASK.predictions(torch.full((1, 1, 24, 24), torch.nan)).numpy(), ONE)
