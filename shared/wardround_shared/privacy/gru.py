"""nn.GRU with gradients of units at nearly the price of the plain layer.

As for an LSTM (recurrent.py), PyTorch's fused kernel gets the projected input with an identity as
its input weight, so that the gradient with respect to that input is the gradient G at the gates on
the input's side. On the side of the hidden state it is the same, but for the candidate, whose
hidden part the reset gate r has multiplied: there it is r G. With the inputs X and the hidden
states H one step earlier, dW_ih = G^T X, db_ih = G^T 1, and so for dW_hh and db_hh with the hidden
side.

Shape letters: T = time steps, B = examples, I = inputs, H = hidden units, D = directions, K =
layers. Gates stand in PyTorch's order: reset, update, candidate (Cho et al. 2014).
"""

import warnings
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # PyTorch's own name for it
from torch import Tensor, nn
from torch.autograd import Function

from wardround_shared.privacy.batch import Batch
from wardround_shared.privacy.gradients import Full, record
from wardround_shared.privacy.recurrent import parameters, stacked, sums_over_time


def gru(layer: nn.GRU, batch: Batch, x: Tensor, state: None = None) -> tuple[Tensor, Tensor]:
    """What `layer(x)` gives, recording gradients of units on the way back.

    Args:
        layer: any number of layers and directions, with or without batch_first.
        batch: whose examples are in x.
        x: [B, T, I] with batch_first, [T, B, I] without.
        state: an initial state is not supported, it starts at zero.

    Returns:
        Output [B, T, DH] or [T, B, DH], and the last hidden state [KD, B, H].
    """
    output, last = stacked(layer, x, state, partial(_direction, layer, batch))
    return output, torch.stack([hidden for (hidden,) in last])


def _direction(layer: nn.GRU, batch: Batch, suffix: str, x: Tensor) -> tuple[Tensor]:
    """Hidden states [T, B, H] in the order of x [T, B, I]."""
    return (_Direction.apply(layer, batch, suffix, x, *parameters(layer, suffix)),)  # type: ignore[no-untyped-call]


class _Direction(Function):
    """One layer in one direction; `weights` are `parameters(layer, suffix)`."""

    @staticmethod
    def forward(
        ctx: Any, layer: nn.GRU, batch: Batch, suffix: str, x: Tensor, *weights: Tensor | None
    ) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = weights
        assert w_ih is not None  # the type says so only for biases
        assert w_hh is not None
        b_hh = w_hh.new_zeros(len(w_hh)) if b_hh is None else b_hh
        ctx.leaf = F.linear(x, w_ih, b_ih).detach().requires_grad_()
        ctx.outputs = _fused(ctx.leaf, w_hh.detach(), b_hh.detach())
        hidden: Tensor = ctx.outputs.detach()
        ctx.batch, ctx.parameters = batch, parameters(layer, suffix)
        ctx.save_for_backward(x, hidden, w_ih, w_hh, b_hh)
        batch.paths[layer] = "materialised, fused kernel"
        return hidden

    @staticmethod
    def backward(ctx: Any, grad_hidden: Tensor) -> Any:
        x, hidden, w_ih, w_hh, b_hh = ctx.saved_tensors
        units = ctx.batch.units_of(x, dim=1)
        (of_inputs,) = torch.autograd.grad(ctx.outputs, ctx.leaf, grad_hidden)
        before = F.pad(hidden[:-1], (0, 0, 0, 0, 1, 0))  # it is zero before the first step
        of_hidden = of_inputs * _share_of_hidden(ctx.leaf.detach(), before, w_hh, b_hh)
        for grad, factors, weight, bias in (
            (of_inputs, x, *ctx.parameters[::2]),
            (of_hidden, before, *ctx.parameters[1::2]),
        ):
            with_ones = torch.cat([factors, torch.ones_like(factors[:, :, :1])], dim=2)
            sums = sums_over_time(units, with_ones, grad)  # [U, I + 1 or H + 1, 3H]
            record(weight, Full(sums[:, :-1].transpose(1, 2)))
            record(bias, Full(sums[:, -1]))
        wanted = of_inputs @ w_ih if ctx.needs_input_grad[3] else None
        return None, None, None, wanted, None, None, None, None


def _fused(projected: Tensor, w_hh: Tensor, b_hh: Tensor) -> Tensor:
    """Hidden states [T, B, H] from projected inputs [T, B, 3H], by PyTorch's fused kernel."""
    identity = torch.eye(len(w_hh), device=w_hh.device, dtype=w_hh.dtype)
    weights = [identity, w_hh, torch.zeros_like(b_hh), b_hh]
    start = projected.new_zeros(1, projected.shape[1], w_hh.shape[1])
    with torch.enable_grad(), warnings.catch_warnings():
        # cuDNN would like the identity and W_hh next to each other in memory.
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single")
        outputs, _ = torch.gru(
            projected, start, weights,
            has_biases=True, num_layers=1, dropout=0.0, train=True, bidirectional=False,
            batch_first=False,
        )  # fmt: skip
    return outputs


def _share_of_hidden(projected: Tensor, before: Tensor, w_hh: Tensor, b_hh: Tensor) -> Tensor:
    """What of G reaches the hidden side, [T, B, 3H]: all of it at two gates, r at the candidate."""
    width = before.shape[2]
    of_reset = projected[..., :width] + F.linear(before, w_hh[:width], b_hh[:width])
    ones = torch.ones_like(before)
    return torch.cat([ones, ones, of_reset.sigmoid()], dim=2)
