"""LSTM and GRU under DP are PyTorch's, and their gradients of units those taken one at a time."""

import itertools

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.layers import DPLSTM
from torch import nn

from wardround_shared.privacy import recurrent
from wardround_shared.privacy.batch import Batch
from wardround_shared.privacy.gradients import recorded
from wardround_shared.privacy.layers import backward, patched
from wardround_shared.privacy.units import Units

# Opacus on a first layer whose input needs no gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
# Layer and, for an LSTM, the kernel.
KINDS = {
    "stepwise lstm": (nn.LSTM, "stepwise"),
    "fused lstm": (nn.LSTM, "fused"),
    "gru": (nn.GRU, None),
}


def states(result):
    """Last hidden state and, of an LSTM, cell state, examples first."""
    last = result[1] if isinstance(result[1], tuple) else (result[1],)
    return [state.transpose(0, 1) for state in last]


# What of a layer's result the loss looks at.
PARTS = {
    "all steps": lambda result: result[0],
    "last step": lambda result: result[0][:, -1],
    "last hidden": lambda result: states(result)[0],
    "last state": lambda result: states(result)[-1],
    "everything": lambda result: torch.cat(
        [part.flatten(1) for part in (result[0], *states(result))], dim=1
    ),
}


@pytest.fixture(params=KINDS)
def kind(request, monkeypatch):
    layer, kernel = KINDS[request.param]
    if kernel is not None:
        monkeypatch.setattr(recurrent, "stepwise", getattr(recurrent, kernel))
    return layer


class Selected(nn.Module):
    """A layer of which only a part of the result is looked at."""

    def __init__(self, module, select):
        super().__init__()
        self.module, self.select = module, select

    def forward(self, x):
        return self.select(self.module(x))


def opened(layer, sizes):
    """The layer's forward under DP, and the batch."""
    batch = Batch()
    batch.units = Units(tuple(sizes), torch.device("cpu"))
    return patched(layer, batch), batch


def taken(layer, batch, total):
    """Gradients of units by parameter, after the backward pass from `total`."""
    backward(batch, total, list(layer.parameters()))
    found = {name: recorded(p, batch.units).in_full() for name, p in layer.named_parameters()}
    for p in layer.parameters():
        assert p.grad is None
        del p.grad_sample
    return found


def check(patient_gradients, layer, x, part="everything", sizes=None):
    select = PARTS[part]
    sizes = sizes or (1,) * len(x)
    plain_x, x, grads = x.clone().requires_grad_(), x.clone().requires_grad_(), []
    x.register_hook(grads.append)
    forward, batch = opened(layer, sizes)
    result, expected = forward(x), layer(x.detach())
    for mine, theirs in zip((result[0], *states(result)), (expected[0], *states(expected)),
                            strict=True):  # fmt: skip
        torch.testing.assert_close(mine, theirs, **TOLERANCE)
    truth = patient_gradients(
        Selected(layer, select),
        (x.detach(),),
        lambda out, _: out.sin().sum(),
        torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
    )
    found = taken(layer, batch, select(result).sin().sum())
    assert [f"module.{name}" for name in found] == list(truth)
    for name, gradients in found.items():
        scale = truth[f"module.{name}"].abs().max().clamp_min(1.0)
        torch.testing.assert_close(gradients / scale, truth[f"module.{name}"] / scale, **TOLERANCE)
    backward(batch, select(forward(x)).sin().sum(), [x])
    select(layer(plain_x)).sin().sum().backward()
    torch.testing.assert_close(grads[-1], plain_x.grad, **TOLERANCE)


class TestEqualsOneAtATime:
    @pytest.mark.parametrize("part", PARTS)
    def test_every_way_out(self, kind, patient_gradients, part):
        torch.manual_seed(0)
        check(patient_gradients, kind(3, 5, batch_first=True), torch.randn(4, 7, 3), part)

    @pytest.mark.parametrize(
        ("layers", "bidirectional", "bias"),
        list(itertools.product([1, 2, 3], [False, True], [True, False])),
    )
    def test_every_form(self, kind, patient_gradients, layers, bidirectional, bias):
        torch.manual_seed(1)
        layer = kind(
            3, 4, num_layers=layers, bidirectional=bidirectional, bias=bias, batch_first=True
        )
        check(patient_gradients, layer, torch.randn(3, 6, 3))

    @pytest.mark.parametrize("sizes", [(2, 2), (3, 1), (4,)])
    def test_every_patient(self, kind, patient_gradients, sizes):
        torch.manual_seed(8)
        layer = kind(3, 5, bidirectional=True, batch_first=True)
        check(patient_gradients, layer, torch.randn(4, 6, 3), sizes=sizes)

    @pytest.mark.parametrize(("examples", "steps"), [(1, 5), (3, 1), (1, 1)])
    def test_smallest_batches_and_sequences(self, kind, patient_gradients, examples, steps):
        check(patient_gradients, kind(2, 3, batch_first=True), torch.randn(examples, steps, 2))

    @pytest.mark.parametrize("steps", [31, 32, 33, 180])
    def test_long_sequences(self, kind, patient_gradients, steps):
        torch.manual_seed(2)
        layer = kind(2, 16, batch_first=True)
        check(patient_gradients, layer, torch.randn(3, steps, 2), "all steps")

    def test_time_first(self, kind):
        torch.manual_seed(3)
        first = kind(3, 4, num_layers=2, bidirectional=True, batch_first=True)
        second = kind(3, 4, num_layers=2, bidirectional=True)
        second.load_state_dict(first.state_dict())
        x = torch.randn(5, 6, 3)
        forward, batch = opened(first, (2, 3))
        found = taken(first, batch, forward(x)[0].sin().sum())
        forward, batch = opened(second, (2, 3))
        output, _ = forward(x.transpose(0, 1))
        torch.testing.assert_close(output, second(x.transpose(0, 1))[0], **TOLERANCE)
        others = taken(second, batch, output.sin().sum())
        for a, b in zip(found.values(), others.values(), strict=True):
            torch.testing.assert_close(a, b, **TOLERANCE)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_opacus_dplstm(bidirectional):
    torch.manual_seed(4)
    layer = nn.LSTM(3, 6, num_layers=2, bidirectional=bidirectional, batch_first=True)
    theirs = DPLSTM(3, 6, num_layers=2, bidirectional=bidirectional, batch_first=True)
    theirs.load_state_dict(layer.state_dict())
    wrapped = GradSampleModule(theirs, loss_reduction="sum")
    x = torch.randn(4, 9, 3)
    forward, batch = opened(layer, (1,) * 4)
    found = taken(layer, batch, forward(x)[0].sin().sum())
    wrapped(x)[0].sin().sum().backward()
    # DPLSTM renames its parameters by a dictionary kept for state_dict.
    renamed = {id(p): name for name, p in theirs.state_dict(keep_vars=True).items()}
    samples = {renamed[id(p)]: p.grad_sample for p in theirs.parameters()}
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


def test_dropout_between_layers_only_in_training(kind):
    torch.manual_seed(6)
    layer = kind(3, 50, num_layers=2, dropout=0.5, batch_first=True)
    x = torch.randn(2, 5, 3)
    forward, _ = opened(layer, (1, 1))
    assert not torch.equal(forward(x)[0], forward(x)[0])
    layer.eval()
    torch.testing.assert_close(forward(x)[0], layer(x)[0], **TOLERANCE)


def test_one_patient_does_not_depend_on_the_others(kind):
    torch.manual_seed(7)
    layer = kind(3, 4, batch_first=True)
    x = torch.randn(4, 6, 3)
    found = []
    for _ in range(2):
        forward, batch = opened(layer, (2, 1, 1))
        found.append(taken(layer, batch, forward(x)[0].sum()))
        x[2:] *= 1e3
    for name, gradients in found[1].items():
        torch.testing.assert_close(gradients[0], found[0][name][0], **TOLERANCE)


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.zeros(5, 3),),
        (torch.zeros(2, 5, 3), torch.zeros(1, 2, 4)),
        (nn.utils.rnn.pack_sequence([torch.zeros(5, 3)]),),
    ],
    ids=["one sequence", "initial state", "packed"],
)
def test_what_is_not_supported_is_refused(kind, arguments):
    forward, _ = opened(kind(3, 4, batch_first=True), (1, 1))
    with pytest.raises(ValueError, match="under DP"):
        forward(*arguments)
