"""The LSTM under DP is nn.LSTM, with per-example gradients equal to those of single examples."""

import itertools

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.layers import DPLSTM
from torch import nn

from wardround_shared.privacy import recurrent
from wardround_shared.privacy.gradients import recorded
from wardround_shared.privacy.recurrent import lstm

# Opacus on a first layer whose input needs no gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
KERNELS = ["stepwise", "fused"]

# What of an LSTM's result the loss looks at.
PARTS = {
    "all steps": lambda result: result[0],
    "last step": lambda result: result[0][:, -1],
    "last hidden": lambda result: result[1][0].transpose(0, 1),
    "last cell": lambda result: result[1][1].transpose(0, 1),
    "everything": lambda result: torch.cat(
        [result[0].flatten(1), *(s.transpose(0, 1).flatten(1) for s in result[1])], dim=1
    ),
}


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    monkeypatch.setattr(recurrent, "stepwise", getattr(recurrent, request.param))


class Selected(nn.Module):
    """An LSTM of which only a part of the result is looked at."""

    def __init__(self, module, select):
        super().__init__()
        self.module, self.select = module, select

    def forward(self, x):
        return self.select(self.module(x))


def taken(layer):
    found = {name: recorded(p).in_full() for name, p in layer.named_parameters()}
    for p in layer.parameters():
        assert p.grad is None
        del p.grad_sample
    return found


def check(example_gradients, layer, x, part):
    select = PARTS[part]
    plain_x, x = x.clone().requires_grad_(), x.clone().requires_grad_()
    result = lstm(layer, x)
    expected = layer(x.detach())
    for mine, theirs in zip((result[0], *result[1]), (expected[0], *expected[1]), strict=True):
        torch.testing.assert_close(mine, theirs, **TOLERANCE)
    select(result).sin().sum().backward()
    truth = example_gradients(
        Selected(layer, select), (x.detach(),), lambda out, _: out.sin().sum()
    )
    found = taken(layer)
    assert [f"module.{name}" for name in found] == list(truth)
    for name, gradients in found.items():
        torch.testing.assert_close(gradients, truth[f"module.{name}"], **TOLERANCE)
    select(layer(plain_x)).sin().sum().backward()
    torch.testing.assert_close(x.grad, plain_x.grad, **TOLERANCE)


@pytest.mark.usefixtures("kernel")
class TestEqualsSingleExamples:
    @pytest.mark.parametrize("part", PARTS)
    def test_every_way_out(self, example_gradients, part):
        torch.manual_seed(0)
        check(example_gradients, nn.LSTM(3, 5, batch_first=True), torch.randn(4, 7, 3), part)

    @pytest.mark.parametrize(
        ("layers", "bidirectional", "bias"),
        list(itertools.product([1, 2, 3], [False, True], [True, False])),
    )
    def test_every_form(self, example_gradients, layers, bidirectional, bias):
        torch.manual_seed(1)
        layer = nn.LSTM(
            3, 4, num_layers=layers, bidirectional=bidirectional, bias=bias, batch_first=True
        )
        check(example_gradients, layer, torch.randn(3, 6, 3), "everything")

    @pytest.mark.parametrize(("examples", "steps"), [(1, 5), (3, 1), (1, 1)])
    def test_smallest_batches_and_sequences(self, example_gradients, examples, steps):
        check(
            example_gradients,
            nn.LSTM(2, 3, batch_first=True),
            torch.randn(examples, steps, 2),
            "everything",
        )

    def test_long_sequences(self, example_gradients):
        torch.manual_seed(2)
        check(
            example_gradients, nn.LSTM(2, 16, batch_first=True), torch.randn(5, 180, 2), "all steps"
        )

    def test_time_first(self):
        torch.manual_seed(3)
        first = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
        second = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
        second.load_state_dict(first.state_dict())
        x = torch.randn(5, 6, 3)
        lstm(first, x)[0].sin().sum().backward()
        output, _ = lstm(second, x.transpose(0, 1))
        torch.testing.assert_close(output, second(x.transpose(0, 1))[0], **TOLERANCE)
        output.sin().sum().backward()
        for a, b in zip(taken(first).values(), taken(second).values(), strict=True):
            torch.testing.assert_close(a, b, **TOLERANCE)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_opacus_dplstm(bidirectional):
    torch.manual_seed(4)
    layer = nn.LSTM(3, 6, num_layers=2, bidirectional=bidirectional, batch_first=True)
    theirs = DPLSTM(3, 6, num_layers=2, bidirectional=bidirectional, batch_first=True)
    theirs.load_state_dict(layer.state_dict())
    wrapped = GradSampleModule(theirs, loss_reduction="sum")
    x = torch.randn(4, 9, 3)
    lstm(layer, x)[0].sin().sum().backward()
    wrapped(x)[0].sin().sum().backward()
    # DPLSTM renames its parameters by a dictionary kept for state_dict.
    renamed = {id(p): name for name, p in theirs.state_dict(keep_vars=True).items()}
    samples = {renamed[id(p)]: p.grad_sample for p in theirs.parameters()}
    found = taken(layer)
    assert found.keys() == samples.keys()
    for name, gradients in found.items():
        torch.testing.assert_close(gradients, samples[name], **TOLERANCE)


def test_the_two_kernels_agree_in_float64_to_the_last_digits():
    torch.manual_seed(5)
    gates, w_hh = torch.randn(20, 3, 24, dtype=torch.float64), torch.randn(24, 6).double() / 3
    outputs = []
    for kernel in (recurrent.stepwise, recurrent.fused):
        hidden, cell, backward = kernel(gates.clone(), w_hh)
        outputs.append((hidden, cell, backward(hidden.sin(), cell.cos())))
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_dropout_between_layers_only_in_training():
    torch.manual_seed(6)
    layer = nn.LSTM(3, 50, num_layers=2, dropout=0.5, batch_first=True)
    x = torch.randn(2, 5, 3)
    assert not torch.equal(lstm(layer, x)[0], lstm(layer, x)[0])
    layer.eval()
    torch.testing.assert_close(lstm(layer, x)[0], layer(x)[0], **TOLERANCE)


def test_one_example_does_not_depend_on_the_others():
    torch.manual_seed(7)
    layer = nn.LSTM(3, 4, batch_first=True)
    x = torch.randn(4, 6, 3)
    lstm(layer, x)[0].sum().backward()
    before = taken(layer)
    x[1:] *= 1e3
    lstm(layer, x)[0].sum().backward()
    for name, gradients in taken(layer).items():
        torch.testing.assert_close(gradients[0], before[name][0], **TOLERANCE)


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.zeros(5, 3),),
        (torch.zeros(2, 5, 3), (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))),
        (nn.utils.rnn.pack_sequence([torch.zeros(5, 3)]),),
    ],
    ids=["one sequence", "initial state", "packed"],
)
def test_what_is_not_supported_is_refused(arguments):
    with pytest.raises(ValueError, match="under DP"):
        lstm(nn.LSTM(3, 4, batch_first=True), *arguments)
