"""Gradients of a table of vectors: those of one patient at a time, without ever being formed."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wardround_shared.privacy.batch import Batch
from wardround_shared.privacy.embedding import rows_of
from wardround_shared.privacy.gradients import BookKept, recorded
from wardround_shared.privacy.layers import backward, patched
from wardround_shared.privacy.units import Units

CPU = torch.device("cpu")
UNITS = [(1, 1, 1, 1, 1, 1), (2, 2, 2), (3, 1, 2), (6,)]
SHAPES = [(6,), (6, 5), (6, 2, 9)]


def fast(layer, x, sizes, weights):
    """The form of the gradients of units of sum(weights * layer(x)), and the output."""
    batch = Batch()
    batch.units = Units(sizes, CPU)
    forward = patched(layer, batch)
    assert forward is not None
    output = forward(x)
    backward(batch, (output * weights).sum(), list(layer.parameters()))
    form = recorded(layer.weight, batch.units)
    del layer.weight.grad_sample
    assert layer.weight.grad is None
    assert batch.paths[layer] == "book-keeping, rows looked up"
    return form, output


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
@pytest.mark.parametrize("sizes", UNITS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_autograd_one_patient_at_a_time(shape, sizes, kind, patient_gradients):
    torch.manual_seed(4)
    layer, x = nn.Embedding(7, 3), torch.randint(0, 7, shape, dtype=kind)
    weights = torch.randn(*shape, 3)
    form, output = fast(layer, x, sizes, weights)
    assert torch.equal(output, layer(x))
    patients = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    truth = patient_gradients(
        layer, (x,), lambda out, theirs: (out * weights[theirs]).sum(), patients
    )["weight"]
    torch.testing.assert_close(form.in_full(), truth)
    norms = truth.double().flatten(1).square().sum(dim=1).float()
    torch.testing.assert_close(form.squared_norms(), norms)
    factors = torch.rand(len(sizes))
    expected = torch.einsum("u,uve->ve", factors, truth)
    torch.testing.assert_close(form.weighted_sum(factors), expected)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(0, 2**31),
)
def test_norms_and_sums_fit_the_gradients_in_full(sizes, positions, entries, seed):
    torch.manual_seed(seed)
    units = Units(tuple(sizes), CPU)
    x = torch.randint(0, entries, (units.examples, positions))
    form = rows_of(units, torch.randn(units.examples, positions, 2), x, entries)
    full = form.in_full()
    assert full.shape == (len(units), entries, 2)
    torch.testing.assert_close(form.squared_norms(), full.flatten(1).square().sum(dim=1))
    factors = torch.rand(len(units))
    torch.testing.assert_close(form.weighted_sum(factors), torch.einsum("u,uve->ve", factors, full))


@pytest.mark.parametrize("cancel", [0.0, 1e-7, 1e-6, 1e-4])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e8])
def test_what_cancels_is_never_released_beyond_the_bound(cancel, scale):
    torch.manual_seed(5)
    grad = scale * torch.randn(1, 2000, 4)
    grad[:, 1::2] = -grad[:, ::2] * (1.0 + cancel)
    form = rows_of(Units((1,), CPU), grad, torch.randint(0, 3, (1, 2000)).sort().values, 5)
    factors = (1.0 / form.squared_norms().sqrt()).clamp(max=1.0)
    assert form.weighted_sum(factors).double().norm() <= 1.0 + 1e-6


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e30])
def test_a_unit_that_is_not_finite_leaves_the_others_as_they_are(poison):
    torch.manual_seed(6)
    units, x = Units((2, 1, 3), CPU), torch.randint(0, 4, (6, 5))
    grad = torch.randn(6, 5, 3)
    zeros = rows_of(units, grad * (units.of_examples != 1)[:, None, None], x, 4)
    grad[2] = poison
    form, lost = rows_of(units, grad, x, 4), torch.arange(3) == 1
    assert torch.equal(form.squared_norms().isfinite(), ~lost)
    assert torch.equal(form.squared_norms()[~lost], zeros.squared_norms()[~lost])
    rest, factors = form.without(lost), torch.rand(3)
    assert rest.squared_norms()[lost] == 0
    assert torch.equal(rest.in_full(), zeros.in_full())
    torch.testing.assert_close(rest.weighted_sum(factors), zeros.weighted_sum(factors))


def test_a_table_that_is_used_twice_counts_both(patient_gradients):
    layer, batch = nn.Embedding(5, 2), Batch()
    batch.units = Units((2, 1), CPU)
    x, y = torch.tensor([[0, 1], [1, 1], [4, 0]]), torch.tensor([[1], [3], [4]])
    forward = patched(layer, batch)
    backward(batch, forward(x).sum() + forward(y).sum(), [layer.weight])
    found = recorded(layer.weight, batch.units).in_full()
    truth = patient_gradients(
        layer, (torch.cat([x, y], dim=1),), lambda out, _: out.sum(), torch.tensor([0, 0, 1])
    )["weight"]
    torch.testing.assert_close(found, truth)


@pytest.mark.parametrize(
    "changes",
    [{"padding_idx": 0}, {"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}],
    ids=str,
)
def test_settings_that_it_does_not_know_are_left_to_opacus(changes):
    assert patched(nn.Embedding(5, 2, **changes), Batch()) is None


def test_a_large_table_is_never_formed_for_each_patient():
    """64 patients would take 2 GB; their rows take 4 MB."""
    entries, width = 2**18, 32
    units, x = Units((1,) * 64, CPU), torch.randint(0, entries, (64, 256))
    grad = torch.randn(64, 256, width)
    form = rows_of(units, grad, x, entries)
    assert isinstance(form, BookKept)
    held = sum(rows.numel() * rows.element_size() for rows in form.rows)
    assert held < 5e6
    torch.testing.assert_close(form.squared_norms().sum().sqrt(), grad.norm(), rtol=1e-2, atol=0)
