"""The recurrent model."""

import pytest
import torch

from wardround_shared.models import build_model, parameter_count
from wardround_shared.study import Lstm


@pytest.mark.parametrize("front", [0, 6, 8])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_parameters_number_what_the_docstring_says(front, layers, bidirectional):
    c, s, h, d, k, kernel = 2, 4, 5, 7, 3, 9
    model = Lstm.model_validate(
        {
            "name": "lstm",
            "hidden": h,
            "layers": layers,
            "bidirectional": bidirectional,
            "front": front,
            "front-kernel": kernel,
            "dense": d,
        }
    )
    r, i = 1 + bidirectional, front or c
    expected = (c * front * kernel + 3 * front) if front else 0
    expected += r * (4 * h * (i + h) + 8 * h) + (layers - 1) * r * (4 * h * (r * h + h) + 8 * h)
    expected += (r * h + s) * d + d + d * k + k
    assert parameter_count(build_model(model, ((c, 50), (s,)), k)) == expected


@pytest.mark.parametrize("length", [1, 30, 200])
def test_signals_of_any_length_will_do(length):
    model = Lstm(name="lstm", hidden=4, front=4)
    assert build_model(model, ((1, length),), 2)(torch.randn(3, 1, length)).shape == (3, 2)


def test_it_learns_which_way_a_step_goes():
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    signals = 0.3 * torch.randn(64, 1, 40)
    signals[:, 0, 20:] += torch.where(labels == 1, 1.0, -1.0)[:, None]
    signals = signals - signals.mean(2, keepdim=True)
    module = build_model(Lstm(name="lstm", hidden=8, front=4, dense=8), ((1, 40),), 2)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(signals), labels).backward()
        optimiser.step()
    assert (module(signals).argmax(1) == labels).float().mean() > 0.95
