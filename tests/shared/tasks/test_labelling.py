"""A class for each step: what has none is neither trained on nor counted."""

import numpy as np
import pytest
import torch
from clipped_by_hand import require_clipped_by_hand
from torch.nn import functional

from wardround_shared.errors import StudyError
from wardround_shared.evaluation import count, metrics
from wardround_shared.models import build_model
from wardround_shared.study import Cnn1d, Lstm
from wardround_shared.tasks import NO_CLASS, Labelling

TASK = Labelling(("W", "N", "REM"), 6)


def _some(n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, 6, 3, generator=generator)
    targets = torch.randint(0, 3, (n, 6), generator=generator)
    targets[-1, 2:] = NO_CLASS
    return outputs, targets


def test_the_loss_is_the_mean_over_the_steps_and_what_has_no_class_adds_nothing():
    outputs, targets = _some()
    loss = TASK.loss(outputs, targets, None)
    first = functional.cross_entropy(outputs[0], targets[0])
    last = functional.cross_entropy(outputs[-1, :2], targets[-1, :2], reduction="sum") / 6
    assert loss[0].item() == pytest.approx(first.item())
    assert loss[-1].item() == pytest.approx(last.item())


def test_weights_of_the_classes_count_by_step():
    outputs, targets = _some()
    weights = torch.tensor([1.0, 0.0, 0.0])
    loss = TASK.loss(outputs, targets, weights)
    own = functional.cross_entropy(outputs[0], targets[0], reduction="none")
    assert loss[0].item() == pytest.approx((own * (targets[0] == 0)).sum().item() / 6)


def test_steps_are_counted_as_examples_of_a_classification_are():
    outputs, targets = _some()
    predictions = TASK.predictions(outputs).numpy()
    counts = TASK.count(predictions, targets.numpy())
    known = targets.numpy() != NO_CLASS
    flat = count(predictions[known], targets.numpy()[known])
    np.testing.assert_array_equal(counts, flat)
    assert TASK.metrics(counts) == metrics(flat, TASK.classes)
    assert TASK.metrics(counts)["n"] == 5 * 6 - 4


def test_one_example_adds_no_more_than_the_bounds_say():
    outputs = torch.tensor([[[1000.0, 0.0, 0.0]]]).expand(1, 6, 3)
    counts = TASK.count(TASK.predictions(outputs).numpy(), np.full((1, 6), 1))
    assert np.delete(counts, 1).max() == TASK.largest_count
    assert TASK.largest_loss / 2 < counts[1] <= TASK.largest_loss


def test_a_tally_leaves_out_what_has_no_class():
    assert TASK.tally(np.array([[0, 0, 2, NO_CLASS, NO_CLASS, 2]])) == {"W": 2, "N": 0, "REM": 2}


def test_a_recurrent_model_answers_for_each_step():
    model = build_model(Lstm(name="lstm", bidirectional=True), ((4, 6),), 3, "step")
    examples = torch.randn(2, 4, 6)
    assert model(examples).shape == (2, 6, 3)
    # A step's answer is about that step: turned round in time, a model that reads both ways is not
    # the same, but each answer still goes with its own step.
    changed = examples.clone()
    changed[:, :, 0] += 5.0
    moved = (model(changed) - model(examples)).abs().amax(dim=(0, 2))
    assert moved[0] == moved.max() > 0


def test_a_model_that_answers_once_is_refused():
    with pytest.raises(StudyError, match="cnn1d answers once for an example"):
        build_model(Cnn1d(name="cnn1d"), ((4, 6),), 3, "step")
    with pytest.raises(StudyError, match="without a front end"):
        build_model(Lstm(name="lstm", front=8), ((4, 6),), 3, "step")


def test_the_gradient_of_each_example_is_clipped_by_itself():
    torch.manual_seed(0)
    model = build_model(Lstm(name="lstm", hidden=5, bidirectional=True), ((4, 6),), 3, "step")
    _, targets = _some(3)
    require_clipped_by_hand(model, torch.randn(3, 4, 6).double(), targets, TASK)
