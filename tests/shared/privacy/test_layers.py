"""Each fast layer's per-example gradients equal those of single examples."""

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import nn

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy.gradients import Full, Outer, record, recorded
from wardround_shared.privacy.layers import patched

# Opacus on a first layer whose input needs no gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

LAYERS = {
    "dense": (nn.Linear(7, 5), (6, 7)),
    "dense without bias": (nn.Linear(7, 5, bias=False), (6, 7)),
    "dense over time": (nn.Linear(7, 5), (6, 4, 7)),
    "dense over a plane": (nn.Linear(7, 5), (6, 4, 3, 7)),
    "convolution": (nn.Conv2d(3, 4, 3, padding=1), (6, 3, 9, 8)),
    "strided": (nn.Conv2d(3, 4, (3, 5), stride=(2, 3), padding=(0, 2)), (6, 3, 10, 11)),
    "dilated": (nn.Conv2d(2, 4, 3, dilation=2), (6, 2, 9, 8)),
    "in groups": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (6, 4, 9, 8)),
    "over time": (nn.Conv1d(2, 3, 7, stride=2, padding=3), (6, 2, 20)),
    "over a volume": (nn.Conv3d(2, 3, 2), (6, 2, 4, 5, 6)),
    "group norm": (nn.GroupNorm(2, 6), (6, 6, 5, 4)),
    "group norm of one": (nn.GroupNorm(1, 6), (6, 6, 9)),
    "group norm of channels": (nn.GroupNorm(6, 6), (6, 6, 9)),
    "large convolution": (nn.Conv2d(1, 16, 3, padding=1), (3, 1, 40, 40)),
}


def fast(layer, x):
    """Output, input gradient and per-example gradients by the fast way."""
    x = x.clone().requires_grad_()
    output = patched(layer)(x)
    output.tanh().sum().backward()
    gradients = {name: recorded(p).in_full() for name, p in layer.named_parameters()}
    forms = [recorded(p) for p in layer.parameters()]
    for p in layer.parameters():
        assert p.grad is None  # the batch's summed gradient was not computed
        del p.grad_sample
    return output, x.grad, gradients, forms


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_single_examples(name, size, example_gradients):
    layer, shape = LAYERS[name]
    torch.manual_seed(1)
    x = torch.randn(*(shape[:1] if size is None else (size,)), *shape[1:])
    output, grad_x, gradients, _ = fast(layer, x)
    torch.testing.assert_close(output, layer(x), **TOLERANCE)
    truth = example_gradients(layer, (x,), lambda out, _: out.tanh().sum())
    assert gradients.keys() == truth.keys()
    for parameter, expected in truth.items():
        scale = expected.abs().max().clamp_min(1.0)
        torch.testing.assert_close(gradients[parameter] / scale, expected / scale, **TOLERANCE)
    plain = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(layer(plain).tanh().sum(), plain)
    torch.testing.assert_close(grad_x, expected, **TOLERANCE)


@pytest.mark.parametrize("name", ["dense", "convolution", "in groups", "over time", "group norm"])
def test_equals_opacus(name):
    layer, shape = LAYERS[name]
    torch.manual_seed(2)
    x = torch.randn(shape)
    _, _, gradients, _ = fast(layer, x)
    wrapped = GradSampleModule(layer, loss_reduction="sum")
    wrapped(x).tanh().sum().backward()
    for parameter, p in layer.named_parameters():
        torch.testing.assert_close(gradients[parameter], p.grad_sample, **TOLERANCE)
    wrapped.to_standard_module()
    layer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", ["dense", "dense over time", "convolution"])
def test_norms_and_sums_are_those_of_the_full_gradients(name):
    layer, shape = LAYERS[name]
    torch.manual_seed(3)
    _, _, _, forms = fast(layer, torch.randn(shape))
    weights = torch.rand(shape[0])
    for form in forms:
        full = form.in_full()
        torch.testing.assert_close(form.squared_norms(), full.flatten(1).norm(dim=1) ** 2)
        torch.testing.assert_close(
            form.weighted_sum(weights), torch.einsum("b,b...->...", weights, full), **TOLERANCE
        )


def test_dense_layers_never_form_their_gradients():
    _, _, _, (weight, _) = fast(nn.Linear(7, 5), torch.randn(6, 7))
    assert isinstance(weight, Outer)


def test_frozen_parameters_leave_nothing():
    layer = nn.Linear(4, 3)
    layer.bias.requires_grad_(False)
    patched(layer)(torch.randn(2, 4)).sum().backward()
    assert isinstance(recorded(layer.weight), Outer)
    assert not hasattr(layer.bias, "grad_sample")
    assert patched(nn.Linear(4, 3).requires_grad_(False)) is None


def test_a_layer_used_twice_adds_up(example_gradients):
    layer = nn.Linear(4, 4)
    x = torch.randn(5, 4)
    forward = patched(layer)
    forward(forward(x).tanh()).tanh().sum().backward()
    truth = example_gradients(
        nn.Sequential(layer, nn.Tanh(), layer), (x,), lambda out, _: out.tanh().sum()
    )
    torch.testing.assert_close(recorded(layer.weight).in_full(), truth["0.weight"], **TOLERANCE)


def test_evaluation_records_nothing():
    layer = nn.Conv2d(1, 2, 3)
    x = torch.randn(2, 1, 5, 5)
    with torch.no_grad():
        assert torch.equal(patched(layer)(x), layer(x))
    assert not hasattr(layer.weight, "grad_sample")


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 2, 3, padding="same"),
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"),
        nn.LSTM(2, 4, proj_size=3),
        nn.LayerNorm(4),
        nn.Embedding(3, 4),
        nn.ReLU(),
        type("Own", (nn.Linear,), {})(2, 2),
    ],
    ids=repr,
)
def test_what_is_not_known_exactly_is_left_to_opacus(layer):
    assert patched(layer) is None


def test_a_parameter_without_gradients_is_refused():
    with pytest.raises(PrivacyError, match="per-example"):
        recorded(nn.Parameter(torch.zeros(2)))
    shared = nn.Parameter(torch.zeros(2))
    shared.grad_sample = [torch.zeros(1, 2)]  # Opacus' mark of one layer that was used twice
    with pytest.raises(PrivacyError, match="per-example"):
        record(shared, Full(torch.zeros(1, 2)))
