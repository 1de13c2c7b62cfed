"""The fully connected model."""

import pytest
import torch

from wardround_shared.models import build_model, parameter_count
from wardround_shared.study import Mlp


@pytest.mark.parametrize(
    ("hidden", "shapes", "expected"),
    [
        ((), ((13,),), 13 * 2 + 2),
        ((32,), ((13,),), 13 * 32 + 32 + 32 * 2 + 2),
        ((7, 5), ((11,), (2,)), 13 * 7 + 7 + 7 * 5 + 5 + 5 * 2 + 2),
    ],
)
def test_the_parameters_number_what_the_docstring_says(hidden, shapes, expected):
    module = build_model(Mlp(name="mlp", hidden=hidden), shapes, 2)
    assert parameter_count(module) == expected


def test_without_hidden_layers_it_is_linear():
    module = build_model(Mlp(name="mlp", hidden=()), ((4,),), 3)
    a, b = torch.randn(2, 5, 4)
    zero = module(torch.zeros(5, 4))
    torch.testing.assert_close(module(a + b) - zero, module(a) + module(b) - 2 * zero)
