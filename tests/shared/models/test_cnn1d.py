"""The convolutional model for signals."""

import itertools

import pytest
import torch
from torch import nn

from wardround_shared.models import build_model, parameter_count
from wardround_shared.study import Cnn1d


@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize("shapes", [((1, 180),), ((12, 1000), (5,))])
def test_the_parameters_number_what_the_docstring_says_whatever_the_length(blocks, shapes):
    c, s, w, kernel, d, k = shapes[0][0], shapes[1][0] if len(shapes) > 1 else 0, 8, 5, 10, 3
    widths = [c, *(w * min(2**block, 4) for block in range(blocks))]
    expected = sum(
        before * after * kernel + 3 * after for before, after in itertools.pairwise(widths)
    )
    expected += (2 * widths[-1] + s) * d + d + d * k + k
    model = Cnn1d(name="cnn1d", width=w, blocks=blocks, kernel=kernel, dense=d)
    assert parameter_count(build_model(model, shapes, k)) == expected


def test_it_learns_a_wave_form_wherever_it_is():
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    signals = 0.2 * torch.randn(64, 1, 120)
    for signal, label in zip(signals, labels.tolist(), strict=True):
        place = int(torch.randint(0, 100, ()))
        bump = torch.hann_window(20)
        signal[0, place : place + 20] += bump if label else -bump
    module = build_model(Cnn1d(name="cnn1d", width=4, blocks=2, dense=8), ((1, 120),), 2)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(signals), labels).backward()
        optimiser.step()
    assert (module(signals).argmax(1) == labels).float().mean() > 0.95
