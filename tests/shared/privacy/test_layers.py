"""Each fast layer's gradients of units equal those of one patient at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleModule
from torch import nn

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy.batch import Batch
from wardround_shared.privacy.gradients import BookKept, Full, record, recorded
from wardround_shared.privacy.layers import backward, patched
from wardround_shared.privacy.units import Units

# Opacus on a first layer whose input needs no gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

# Layer, shape of its input, and the paths that it may take.
MATERIALISED = "materialised"
BOOK_KEPT = "book-keeping"
LAYERS = {
    "dense": (nn.Linear(7, 5), (6, 7), None),
    "dense without bias": (nn.Linear(7, 5, bias=False), (6, 7), None),
    "wide dense": (nn.Linear(200, 300), (6, 200), BOOK_KEPT),
    "dense over time": (nn.Linear(7, 5), (6, 9, 7), None),
    "dense over a plane": (nn.Linear(7, 5), (6, 4, 3, 7), None),
    "wide dense over time": (nn.Linear(200, 300), (6, 2, 200), BOOK_KEPT),
    "convolution": (nn.Conv2d(3, 4, 3, padding=1), (6, 3, 9, 8), MATERIALISED),
    "strided": (
        nn.Conv2d(3, 4, (3, 5), stride=(2, 3), padding=(0, 2)),
        (6, 3, 10, 11),
        MATERIALISED,
    ),
    "dilated": (nn.Conv2d(2, 4, 3, dilation=2), (6, 2, 9, 8), MATERIALISED),
    "channels last": (
        nn.Conv2d(3, 4, 3, padding=1).to(memory_format=torch.channels_last),
        (6, 3, 9, 8),
        MATERIALISED,
    ),
    "in groups": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (6, 4, 9, 8), MATERIALISED),
    "wide in groups": (nn.Conv2d(40, 60, 3, groups=2), (6, 40, 4, 4), MATERIALISED),
    "over time": (nn.Conv1d(2, 3, 7, stride=2, padding=3), (6, 2, 20), MATERIALISED),
    "over a volume": (nn.Conv3d(2, 3, 2), (6, 2, 4, 5, 6), MATERIALISED),
    "wide and small": (nn.Conv2d(80, 90, 3, stride=2, padding=1), (6, 80, 3, 3), BOOK_KEPT),
    "wide and short": (
        nn.Conv1d(60, 70, 5, stride=3, padding=2, dilation=2),
        (6, 60, 10),
        BOOK_KEPT,
    ),
    "group norm": (nn.GroupNorm(2, 6), (6, 6, 5, 4), MATERIALISED),
    "group norm of one": (nn.GroupNorm(1, 6), (6, 6, 9), MATERIALISED),
    "group norm of channels": (nn.GroupNorm(6, 6), (6, 6, 9), MATERIALISED),
    "large convolution": (nn.Conv2d(1, 16, 3, padding=1), (6, 1, 60, 60), MATERIALISED),
}
UNITS = {
    "records": (1, 1, 1, 1, 1, 1),
    "pairs": (2, 2, 2),
    "ragged": (3, 1, 2),
    "one patient": (6,),
}


def fast(layer, x, sizes=None):
    """Output, input gradient, forms of gradients and path, by the fast way."""
    batch = Batch()
    batch.units = Units(sizes or (1,) * len(x), x.device)
    x, grads = x.clone().requires_grad_(), []
    x.register_hook(grads.append)
    output = patched(layer, batch)(x)
    backward(batch, output.tanh().sum(), [x, *layer.parameters()])
    forms = {name: recorded(p, batch.units) for name, p in layer.named_parameters()}
    for p in layer.parameters():
        assert p.grad is None  # the batch's summed gradient was not computed
        del p.grad_sample
    return output, grads[0], forms, batch.paths[layer]


def check(layer, x, sizes, patient_gradients):
    """Compare with one unit at a time; returns the path."""
    output, grad_x, forms, path = fast(layer, x, sizes)
    torch.testing.assert_close(output, layer(x), **TOLERANCE)
    of_examples = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    truth = patient_gradients(layer, (x,), lambda out, _: out.tanh().sum(), of_examples)
    factors = torch.rand(len(sizes))
    assert forms.keys() == truth.keys()
    for name, expected in truth.items():
        scale = expected.abs().max().clamp_min(1.0)
        torch.testing.assert_close(forms[name].in_full() / scale, expected / scale, **TOLERANCE)
        norms = expected.flatten(1).double().norm(dim=1)
        torch.testing.assert_close(
            forms[name].squared_norms().double().sqrt(), norms, rtol=1e-5, atol=1e-5
        )
        weighted = torch.einsum("u,u...->...", factors, expected)
        torch.testing.assert_close(
            forms[name].weighted_sum(factors) / scale, weighted / scale, **TOLERANCE
        )
    plain = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(layer(plain).tanh().sum(), plain)
    torch.testing.assert_close(grad_x, expected, **TOLERANCE)
    return path


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", LAYERS)
def test_equals_one_patient_at_a_time(name, units, patient_gradients):
    layer, shape, _ = LAYERS[name]
    torch.manual_seed(1)
    check(layer, torch.randn(shape), UNITS[units], patient_gradients)


@pytest.mark.parametrize("name", LAYERS)
def test_takes_the_path_that_is_cheaper(name, patient_gradients):
    layer, shape, expected = LAYERS[name]
    path = check(layer, torch.randn(shape), UNITS["ragged"], patient_gradients)
    assert expected is None or path.startswith(expected)


@pytest.mark.parametrize("name", ["dense", "convolution", "large convolution", "group norm"])
def test_a_batch_of_one_example(name, patient_gradients):
    layer, shape, _ = LAYERS[name]
    check(layer, torch.randn(1, *shape[1:]), (1,), patient_gradients)


@pytest.mark.parametrize(
    "name", ["dense", "wide dense", "convolution", "wide and small", "over time"]
)
@settings(max_examples=10)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_equals_any_patients_at_a_time(name, patient_gradients, sizes):
    layer, shape, _ = LAYERS[name]
    torch.manual_seed(4)
    check(layer, torch.randn(sum(sizes), *shape[1:]), tuple(sizes), patient_gradients)


def test_group_norm_with_the_channels_last_in_memory(patient_gradients):
    layer = nn.GroupNorm(2, 6)
    torch.manual_seed(5)
    x = torch.randn(6, 6, 5, 4)
    last = x.contiguous(memory_format=torch.channels_last)
    for sizes in UNITS.values():
        _, grad_x, forms, path = fast(layer, x, sizes)
        _, grad_last, forms_last, path_last = fast(layer, last, sizes)
        assert path != path_last
        torch.testing.assert_close(grad_last, grad_x, **TOLERANCE)
        for name, form in forms_last.items():
            torch.testing.assert_close(form.in_full(), forms[name].in_full(), **TOLERANCE)


@pytest.mark.parametrize("name", ["dense", "convolution", "in groups", "over time", "group norm"])
def test_equals_opacus(name):
    layer, shape, _ = LAYERS[name]
    torch.manual_seed(2)
    x = torch.randn(shape)
    _, _, forms, _ = fast(layer, x)
    wrapped = GradSampleModule(layer, loss_reduction="sum")
    wrapped(x).tanh().sum().backward()
    for parameter, p in layer.named_parameters():
        torch.testing.assert_close(forms[parameter].in_full(), p.grad_sample, **TOLERANCE)
    wrapped.to_standard_module()
    layer.zero_grad(set_to_none=True)


def test_frozen_parameters_leave_nothing():
    layer = nn.Linear(4, 3)
    layer.bias.requires_grad_(False)
    batch = Batch()
    batch.units = Units((1, 1), torch.device("cpu"))
    backward(batch, patched(layer, batch)(torch.randn(2, 4)).sum(), [])
    assert isinstance(recorded(layer.weight, batch.units), BookKept)
    assert not hasattr(layer.bias, "grad_sample")
    assert patched(nn.Linear(4, 3).requires_grad_(False), batch) is None


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (3, 2)])
def test_a_layer_used_twice_adds_up(sizes, patient_gradients):
    layer = nn.Linear(4, 4)
    x = torch.randn(5, 4)
    batch = Batch()
    batch.units = Units(sizes, x.device)
    forward = patched(layer, batch)
    backward(batch, forward(forward(x).tanh()).tanh().sum(), [])
    of_examples = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    truth = patient_gradients(
        nn.Sequential(layer, nn.Tanh(), layer), (x,), lambda out, _: out.tanh().sum(), of_examples
    )
    form = recorded(layer.weight, batch.units)
    torch.testing.assert_close(form.in_full(), truth["0.weight"], **TOLERANCE)


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 2, 3), nn.Linear(5, 2)])
def test_evaluation_and_passes_outside_of_a_step_record_nothing(layer):
    x = torch.randn(2, 1, 5, 5)
    batch = Batch()
    assert torch.equal(patched(layer, batch)(x), layer(x))
    batch.units = Units((1, 1), x.device)
    with torch.no_grad():
        assert torch.equal(patched(layer, batch)(x), layer(x))
    assert not batch.uses
    assert not hasattr(layer.weight, "grad_sample")


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 2, 3, padding="same"),
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"),
        nn.LSTM(2, 4, proj_size=3),
        nn.LayerNorm(4),
        nn.Embedding(3, 4, padding_idx=0),
        nn.ReLU(),
        type("Own", (nn.Linear,), {})(2, 2),
    ],
    ids=repr,
)
def test_what_is_not_known_exactly_is_left_to_opacus(layer):
    assert patched(layer, Batch()) is None


def test_a_parameter_without_gradients_is_refused():
    with pytest.raises(PrivacyError, match="per-example"):
        recorded(nn.Parameter(torch.zeros(2)), Units((1,), torch.device("cpu")))
    shared = nn.Parameter(torch.zeros(2))
    shared.grad_sample = [torch.zeros(1, 2)]  # Opacus' mark of one layer that was used twice
    with pytest.raises(PrivacyError, match="per-example"):
        record(shared, Full(torch.zeros(1, 2)))
