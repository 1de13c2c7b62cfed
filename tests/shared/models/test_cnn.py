"""The convolutional model."""

import copy
import warnings

import pytest
import torch
from torch import nn

from wardround_shared.models import build_model, flatten, parameter_count
from wardround_shared.study import Cnn


@pytest.mark.parametrize("w", [4, 16])
@pytest.mark.parametrize("shapes", [((1, 28, 28),), ((3, 64, 48), (5,))])
def test_the_parameters_number_what_the_docstring_says_whatever_the_size(w, shapes):
    c, s, d, k = shapes[0][0], shapes[1][0] if len(shapes) > 1 else 0, 10, 3
    expected = (9 * c * w + 3 * w) + (18 * w * w + 6 * w) + (36 * w * w + 6 * w)
    expected += ((32 * w + s) * d + d) + (d * k + k)
    assert parameter_count(build_model(Cnn(name="cnn", width=w, dense=d), shapes, k)) == expected


def test_the_layout_of_the_weights_changes_nothing_but_the_speed():
    module = build_model(Cnn(name="cnn", width=8), ((1, 28, 28),), 2)
    plain = copy.deepcopy(module)
    for parameter in plain.parameters():
        # Not contiguous(), which keeps the layout of a weight with a single input channel.
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    assert torch.equal(flatten(module), flatten(plain))
    images = torch.randn(4, 1, 28, 28)
    torch.testing.assert_close(module(images), plain(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_opacus_finds_the_gradient_of_each_example(channels):
    from opacus import GradSampleModule

    torch.manual_seed(0)
    module = build_model(Cnn(name="cnn", width=8, dense=10), ((channels, 20, 16),), 2)
    alone = copy.deepcopy(module)
    images = torch.randn(4, channels, 20, 16).contiguous(memory_format=torch.channels_last)
    labels = torch.tensor([0, 1, 1, 0])
    with warnings.catch_warnings():
        # torch remarks that the hooks see no gradient of the input, which nobody asks for.
        warnings.simplefilter("ignore", UserWarning)
        together = GradSampleModule(module, loss_reduction="sum")
        nn.functional.cross_entropy(together(images), labels, reduction="sum").backward()
    for example in range(4):
        alone.zero_grad()
        one = slice(example, example + 1)
        nn.functional.cross_entropy(alone(images[one]), labels[one]).backward()
        for expected, found in zip(alone.parameters(), module.parameters(), strict=True):
            torch.testing.assert_close(
                found.grad_sample[example], expected.grad, rtol=1e-3, atol=1e-5
            )


def test_it_learns_where_a_spot_is():
    torch.manual_seed(0)
    images = 0.3 * torch.randn(24, 1, 16, 16)
    labels = torch.arange(24) % 2
    images[labels == 0, :, 2:6, 2:6] += 2.0
    images[labels == 1, :, 10:14, 10:14] += 2.0
    module = build_model(Cnn(name="cnn", width=4, dense=8), ((1, 16, 16),), 2)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(20):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(images), labels).backward()
        optimiser.step()
    assert (module(images).argmax(1) == labels).float().mean() > 0.95
