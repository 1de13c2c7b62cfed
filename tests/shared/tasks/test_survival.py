"""Proportional hazards: the likelihood by hand, Harrell's C by pairs, and what adds over sites."""

import numpy as np
import pytest
import torch
from clipped_by_hand import require_clipped_by_hand
from torch import nn

from wardround_shared.errors import RunError
from wardround_shared.tasks import ProportionalHazards

TASK = ProportionalHazards(horizon=100.0, intervals=4)


def _outputs(risk, hazards=(0.0, 0.0, 0.0, 0.0)):
    return torch.tensor([[risk, *hazards]], dtype=torch.float64)


def _target(time, seen):
    return torch.tensor([[time, float(seen)]])


def test_with_no_risk_and_one_event_a_horizon_the_loss_is_the_time():
    for time in (0.0, 10.0, 60.0, 100.0):
        loss = TASK.loss(_outputs(0.0), _target(time, seen=False), None)
        assert loss.item() == pytest.approx(time / 100.0)


def test_the_likelihood_by_hand():
    hazards, risk = (0.1, -0.3, 0.7, 0.2), 0.4
    # The event is in the third interval: two whole quarters of the horizon, and 10 of 100 more.
    cumulated = 0.25 * np.exp(0.1) + 0.25 * np.exp(-0.3) + 0.10 * np.exp(0.7)
    expected = np.exp(0.4) * cumulated - (0.7 + 0.4)
    loss = TASK.loss(_outputs(risk, hazards), _target(60.0, seen=True), None)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_what_comes_after_the_horizon_was_not_seen():
    later = TASK.loss(_outputs(0.3), _target(500.0, seen=True), None)
    until = TASK.loss(_outputs(0.3), _target(100.0, seen=False), None)
    assert later.item() == pytest.approx(until.item())
    assert TASK.tally(np.array([[500.0, 1.0], [99.0, 1.0]], np.float32)) == {
        "event": 1,
        "no event": 1,
    }


def test_no_patients_loss_depends_on_another_patient():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(6, 5, generator=generator)
    targets = torch.rand(6, 2, generator=generator) * 100.0
    together = TASK.loss(outputs, targets, None)
    alone = [
        TASK.loss(o[None], t[None], None).item() for o, t in zip(outputs, targets, strict=True)
    ]
    np.testing.assert_allclose(together.numpy(), alone, rtol=1e-6)


def test_the_head_adds_a_baseline_that_is_the_same_for_everybody():
    model = TASK.headed(nn.Linear(3, 1))
    with torch.no_grad():
        model.hazards.weight.copy_(torch.arange(4.0)[:, None])
    outputs = model(torch.randn(5, 3))
    assert outputs.shape == (5, 5)
    assert torch.equal(outputs[:, 1:], torch.arange(4.0).expand(5, 4))


def test_the_gradient_of_each_patient_is_clipped_by_itself():
    torch.manual_seed(0)
    targets = torch.tensor([[20.0, 1.0], [90.0, 0.0], [55.0, 1.0]]).double()
    model = TASK.headed(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)))
    require_clipped_by_hand(model, torch.randn(3, 4).double(), targets, TASK)


def _harrell(time, seen, risk):
    right = pairs = 0.0
    for i in np.flatnonzero(seen):
        later = time > time[i]
        right += (risk[i] > risk[later]).sum() + 0.5 * (risk[i] == risk[later]).sum()
        pairs += later.sum()
    return right / pairs


def test_the_c_index_is_harrells_but_for_the_bins():
    random = np.random.default_rng(3)
    risk = random.normal(size=800)
    time = random.exponential(60.0 * np.exp(-risk))
    seen = random.random(800) < 0.6
    targets = np.stack([time, seen], axis=1).astype(np.float32)
    predictions = np.concatenate([risk[:, None], np.zeros((800, 4))], axis=1)
    parts = [TASK.count(predictions[k::3], targets[k::3]) for k in range(3)]
    measured = TASK.metrics(sum(parts))
    kept, cut = seen & (time <= 100.0), np.minimum(time, 100.0 + 1e-6)
    assert measured["c_index"] == pytest.approx(_harrell(cut, kept, risk), abs=0.01)
    assert measured["c_index"] > 0.7
    assert (measured["n"], measured["events"]) == (800, kept.sum())


def test_counts_of_the_whole_are_the_sum_of_the_parts():
    random = np.random.default_rng(4)
    predictions = random.normal(size=(50, 5))
    targets = np.stack([random.random(50) * 120.0, random.random(50) < 0.5], 1).astype(np.float32)
    whole = TASK.count(predictions, targets)
    parts = TASK.count(predictions[:20], targets[:20]) + TASK.count(predictions[20:], targets[20:])
    np.testing.assert_allclose(whole, parts)
    assert whole.shape == (TASK.counts_length,)
    assert (np.delete(whole, 1) == np.round(np.delete(whole, 1))).all()
    assert TASK.count(predictions[:0], targets[:0]).sum() == 0


def test_nobody_has_no_metrics_and_a_reversed_risk_is_below_a_half():
    assert TASK.metrics(np.zeros(TASK.counts_length))["c_index"] is None
    targets = np.array([[10.0, 1.0], [90.0, 0.0]], np.float32)
    backwards = np.array([[-1.0, 0, 0, 0, 0], [1.0, 0, 0, 0, 0]])
    assert TASK.metrics(TASK.count(backwards, targets))["c_index"] == 0.0
    assert TASK.metrics(TASK.count(-backwards, targets))["c_index"] == 1.0


def test_one_patient_adds_no_more_than_the_bounds_say():
    wild = np.array([[700.0, 5.0, 5.0, 5.0, 5.0]])
    counts = TASK.count(wild, np.array([[100.0, 0.0]], np.float32))
    assert counts[1] <= TASK.largest_loss
    assert np.delete(counts, 1).max() <= TASK.largest_count


def test_an_extreme_risk_is_counted_as_the_largest_and_is_no_nan():
    outputs = torch.tensor([[200.0, 0.0, 0.0, 0.0, 0.0]])
    assert torch.isfinite(TASK.loss(outputs, _target(1.0, seen=True), None)).all()
    wild = np.array([[5000.0, 0.0, 0.0, 0.0, 0.0]])
    counts = TASK.count(wild, np.array([[1.0, 1.0]], np.float32))
    assert np.isfinite(counts).all()
    assert counts[1] == TASK.largest_loss
    assert np.isfinite(TASK.survival(wild, np.array([1.0, 100.0]))).all()


def test_the_c_index_holds_where_events_come_long_before_the_horizon():
    random = np.random.default_rng(5)
    risk = random.normal(size=1500)
    time = random.exponential(8.0 * np.exp(-risk))
    targets = np.stack([time, np.ones(1500)], axis=1).astype(np.float32)
    predictions = np.concatenate([risk[:, None], np.zeros((1500, 4))], axis=1)
    measured = TASK.metrics(TASK.count(predictions, targets))
    exact = _harrell(np.minimum(time, 100.0 + 1e-6), time <= 100.0, risk)
    assert measured["c_index"] == pytest.approx(exact, abs=0.02)


def test_a_model_that_has_diverged_is_told():
    with pytest.raises(RunError, match="diverged"):
        TASK.count(np.array([[np.nan, 0, 0, 0, 0]]), np.array([[1.0, 1.0]], np.float32))
