"""The recurrent models."""

import pytest
import torch

from wardround_shared.models import build_model, parameter_count
from wardround_shared.study import CnnLstm, Gru, Lstm


@pytest.mark.parametrize(("kind", "name", "g"), [(Lstm, "lstm", 4), (Gru, "gru", 3)])
@pytest.mark.parametrize("front", [0, 6, 8])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_parameters_number_what_the_docstring_says(  # noqa: PLR0917 - a table of cases
    kind, name, g, front, layers, bidirectional
):
    c, s, h, d, k, kernel = 2, 4, 5, 7, 3, 9
    model = kind.model_validate(
        {
            "name": name,
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
    expected += r * (g * h * (i + h) + 2 * g * h)
    expected += (layers - 1) * r * (g * h * (r * h + h) + 2 * g * h)
    expected += (r * h + s) * d + d + d * k + k
    assert parameter_count(build_model(model, ((c, 50), (s,)), k)) == expected


MODELS = [
    Lstm(name="lstm", hidden=8, front=4, dense=8),
    Gru(name="gru", hidden=8, front=4, dense=8),
    CnnLstm(name="cnn-lstm", width=4, blocks=2, hidden=8, dense=8),
]


@pytest.mark.parametrize("length", [1, 30, 200])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_signals_of_any_length_will_do(model, length):
    assert build_model(model, ((1, length),), 2)(torch.randn(3, 1, length)).shape == (3, 2)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_it_learns_which_way_a_step_goes(model):
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    signals = 0.3 * torch.randn(64, 1, 40)
    signals[:, 0, 20:] += torch.where(labels == 1, 1.0, -1.0)[:, None]
    signals = signals - signals.mean(2, keepdim=True)
    module = build_model(model, ((1, 40),), 2)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(signals), labels).backward()
        optimiser.step()
    assert (module(signals).argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize("kind", [Lstm, Gru])
@pytest.mark.parametrize("channel", ["mask", "gap"])
def test_it_learns_from_what_was_not_observed(kind, channel):
    # Two features over six time points, in a third of the records two of them padding: the values
    # say nothing, only whether the second feature was observed, or when last.
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    records = torch.zeros(64, 6, 6)
    records[:, :2] = 0.3 * torch.randn(64, 2, 6, generator=generator)
    records[:, 2:4] = (torch.rand(64, 2, 6, generator=generator) < 0.5).float()
    if channel == "mask":
        records[:, 3, 4:] = labels[:, None].float()
    else:
        records[:, 5, 5] = torch.where(labels == 1, 1.2, 0.4)
    records[::3, :, :2] = 0.0
    torch.manual_seed(0)
    name = "gru" if kind is Gru else "lstm"
    module = build_model(kind(name=name, hidden=8, dense=8), ((6, 6),), 2)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(records), labels).backward()
        optimiser.step()
    assert (module(records).argmax(1) == labels).float().mean() > 0.95
