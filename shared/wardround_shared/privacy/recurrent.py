"""nn.LSTM with gradients of units at nearly the price of the plain layer; for nn.GRU see gru.py.

Opacus' DPLSTM runs one dense layer per time step and records each of them. Here the gradient G at
the gates (before their nonlinearities) is formed for the whole sequence at once; with the inputs X
and the hidden states H one step earlier, the gradients of examples are sums over time:
dW_ih = G^T X, dW_hh = G^T H, db = G^T 1, which is one batched product.

Two kernels give G. `stepwise` runs the recurrence in place and keeps what the chain rule needs; on
a CPU it is the faster one. `fused` hands PyTorch's fused kernel (cuDNN on a GPU) the projected
input with an identity as its input weight: the gradient with respect to that input is G.

Shape letters: T = time steps, B = examples, U = units that are clipped, I = inputs, H = hidden
units, D = directions, K = layers. Gates stand in PyTorch's order: input, forget, cell, output
(Hochreiter and Schmidhuber 1997; Gers et al. 2000).
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # PyTorch's own name for it
from torch import Tensor, nn
from torch.autograd import Function

from wardround_shared.privacy.batch import Batch
from wardround_shared.privacy.gradients import Full, record
from wardround_shared.privacy.units import Units

# So many steps' derivatives are held at a time on the way back; all would be twice the gates.
_STEPS_AT_ONCE = 32

Backward = Callable[[Tensor, Tensor], Tensor]
"""From the gradients at the hidden states [T, B, H] and at the last cell state [B, H] to the
gradient at the gates [T, B, 4H]."""

Direction = Callable[[str, Tensor], tuple[Tensor, ...]]
"""From the ending of a direction's parameter names and x [T, B, I], in its own order, to its hidden
states [T, B, H] and whatever else is kept of it."""

Kernel = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Backward]]
"""From projected inputs [T, B, 4H], which it may overwrite, and W_hh [4H, H] to the hidden states
[T, B, H], the last cell state [B, H] and the way back."""


def lstm(
    layer: nn.LSTM, batch: Batch, x: Tensor, state: None = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What `layer(x)` gives, recording gradients of units on the way back.

    Args:
        layer: any number of layers and directions, with or without batch_first; no projections.
        batch: whose examples are in x.
        x: [B, T, I] with batch_first, [T, B, I] without.
        state: an initial state is not supported, it starts at zero.

    Returns:
        Output [B, T, DH] or [T, B, DH], and the last hidden and cell state [KD, B, H] each.
    """
    output, last = stacked(layer, x, state, partial(_direction, layer, batch))
    hidden, cells = zip(*last, strict=True)
    return output, (torch.stack(hidden), torch.stack(cells))


def stacked(
    layer: nn.LSTM | nn.GRU, x: Tensor, state: None, direction: Direction
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """Run all layers and directions.

    Returns:
        Output as `lstm` has it, and each direction's last hidden state [B, H] with what else
        `direction` gives.
    """
    if state is not None or not isinstance(x, Tensor) or x.dim() != 3:
        raise ValueError(
            "under DP a recurrent layer takes a batch of sequences without initial state"
        )
    current = x.transpose(0, 1) if layer.batch_first else x
    last = []
    for number in range(layer.num_layers):
        outputs = []
        for suffix in _suffixes(layer, number):
            backwards = suffix.endswith("reverse")
            hidden, *others = direction(suffix, current.flip(0) if backwards else current)
            last.append((hidden[-1], *others))
            outputs.append(hidden.flip(0) if backwards else hidden)
        current = torch.cat(outputs, dim=2)
        if number < layer.num_layers - 1:
            current = F.dropout(current, layer.dropout, layer.training)
    return current.transpose(0, 1) if layer.batch_first else current, last


def _suffixes(layer: nn.LSTM | nn.GRU, number: int) -> list[str]:
    """The endings of PyTorch's parameter names, one per direction."""
    return [f"l{number}", f"l{number}_reverse"][: 1 + layer.bidirectional]


def _direction(layer: nn.LSTM, batch: Batch, suffix: str, x: Tensor) -> Any:
    """Hidden states [T, B, H] in the order of x [T, B, I], and the last cell state [B, H]."""
    return _Direction.apply(layer, batch, suffix, x, *parameters(layer, suffix))  # type: ignore[no-untyped-call]


def parameters(layer: nn.LSTM | nn.GRU, suffix: str) -> list[nn.Parameter | None]:
    """W_ih [4H, I], W_hh [4H, H], b_ih [4H], b_hh [4H], for a GRU 3H; no biases: None."""
    names = ("weight_ih_", "weight_hh_", "bias_ih_", "bias_hh_")
    return [getattr(layer, name + suffix, None) for name in names]


class _Direction(Function):
    """One layer in one direction; `weights` are `parameters(layer, suffix)`."""

    @staticmethod
    def forward(
        ctx: Any, layer: nn.LSTM, batch: Batch, suffix: str, x: Tensor, *weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        w_ih, w_hh, b_ih, b_hh = weights
        assert w_ih is not None  # the type says so only for biases
        assert w_hh is not None
        bias = None if b_ih is None or b_hh is None else b_ih + b_hh
        kernel = stepwise if x.device.type == "cpu" else fused
        hidden, cell, ctx.gates = kernel(F.linear(x, w_ih, bias), w_hh.detach())
        ctx.layer, ctx.batch = layer, batch
        batch.paths[layer] = f"materialised, {kernel.__name__} kernel"
        ctx.parameters = parameters(layer, suffix)
        ctx.save_for_backward(x, hidden, w_ih)
        return hidden, cell

    @staticmethod
    def backward(ctx: Any, grad_hidden: Tensor, grad_cell: Tensor) -> Any:
        x, hidden, w_ih = ctx.saved_tensors
        grad_gates = ctx.gates(grad_hidden, grad_cell)
        del ctx.gates  # and with it what the kernel kept
        _record_sums(ctx.parameters, ctx.batch.units_of(x, dim=1), grad_gates, x, hidden)
        wanted = grad_gates @ w_ih if ctx.needs_input_grad[3] else None
        return None, None, None, wanted, None, None, None, None


def _record_sums(
    of: list[nn.Parameter | None], units: Units, grad_gates: Tensor, x: Tensor, hidden: Tensor
) -> None:
    """Gradients of units of W_ih, W_hh, b_ih and b_hh from the gradient at the gates."""
    inputs, width = x.shape[2], hidden.shape[2]
    factors = x.new_zeros(*x.shape[:2], inputs + width + 1)
    factors[:, :, :inputs] = x
    factors[1:, :, inputs:-1] = hidden[:-1]  # the state before the first step is zero
    factors[:, :, -1] = 1.0
    sums = sums_over_time(units, factors, grad_gates)  # [U, I + H + 1, 4H]
    of_inputs, of_hidden, of_ones = torch.split(sums, [inputs, width, 1], dim=1)
    w_ih, w_hh, b_ih, b_hh = of
    record(w_ih, Full(of_inputs.transpose(1, 2)))
    record(w_hh, Full(of_hidden.transpose(1, 2)))
    record(b_ih, Full(of_ones.squeeze(1)))
    record(b_hh, Full(of_ones.squeeze(1)))


def sums_over_time(units: Units, factors: Tensor, grad_gates: Tensor) -> Tensor:
    """Products of factors [T, B, I] and gradients at gates [T, B, 4H], added up, [U, I, 4H]."""
    return units.sums(torch.bmm(factors.permute(1, 2, 0), grad_gates.transpose(0, 1)))


def stepwise(gates: Tensor, w_hh: Tensor) -> tuple[Tensor, Tensor, Backward]:
    """The recurrence written out; see `Kernel`. The gates' values replace the projected inputs."""
    steps, examples, units = len(gates), gates.shape[1], w_hh.shape[1]
    hidden = gates.new_zeros(steps + 1, examples, units)
    cells = torch.zeros_like(hidden)
    squashed = torch.empty_like(hidden[1:])
    transposed = w_hh.t().contiguous()
    # Views are made once: slicing inside the loop would take as long as the arithmetic.
    h, c = hidden.unbind(0), cells.unbind(0)
    of_steps = (gates, gates[..., : 2 * units], *gates.chunk(4, dim=2), squashed)
    for t, (all_four, in_and_forget, i, f, g, o, s) in enumerate(
        zip(*(part.unbind(0) for part in of_steps), strict=True)
    ):
        all_four.addmm_(h[t], transposed)
        in_and_forget.sigmoid_()
        g.tanh_()
        o.sigmoid_()
        torch.mul(f, c[t], out=c[t + 1]).addcmul_(i, g)
        torch.tanh(c[t + 1], out=s)
        torch.mul(o, s, out=h[t + 1])

    way_back = partial(_stepwise_backward, (gates, cells, squashed), w_hh)
    return hidden[1:], cells[-1].clone(), way_back


def _stepwise_backward(
    kept: tuple[Tensor, Tensor, Tensor], w_hh: Tensor, grad_hidden: Tensor, grad_cell: Tensor
) -> Tensor:
    """The gradient at the gates [T, B, 4H], step by step from the last to the first.

    It takes the place of the gates' values, so there is no second way back.
    """
    gates = kept[0]
    by_gate = gates.unflatten(2, (4, -1))
    d_all, d_rest, d_out, given = (
        part.unbind(0) for part in (gates, by_gate[:, :, :3], by_gate[:, :, 3], grad_hidden)
    )
    d_hidden, d_cell = given[-1], grad_cell.clone()
    for stop in range(len(gates), 0, -_STEPS_AT_ONCE):
        start = max(0, stop - _STEPS_AT_ONCE)
        derivatives = (part.unbind(0) for part in _derivatives(kept, start, stop))
        steps = zip(range(start, stop), *derivatives, strict=True)
        for t, cell_by, out_by, rest_by, forget in reversed(list(steps)):
            torch.mul(d_hidden, out_by, out=d_out[t])
            d_cell.addcmul_(d_hidden, cell_by)
            torch.mul(d_cell.unsqueeze(1), rest_by, out=d_rest[t])
            d_cell.mul_(forget)
            if t:
                d_hidden = torch.addmm(given[t - 1], d_all[t], w_hh)
    return gates


def _derivatives(kept: tuple[Tensor, Tensor, Tensor], start: int, stop: int) -> tuple[Tensor, ...]:
    """All that the way back needs of some steps and that does not depend on the recurrence.

    Returns:
        Derivatives of the hidden state by cell state and output gate, [T, B, H] each, of the cell
        state by the other gates, [T, B, 3, H], and the forget gate.
    """
    gates, cells, squashed = (part[start:stop] for part in kept)
    i, f, g, o = gates.chunk(4, dim=2)
    rest_by_cell = torch.stack([g * i * (1 - i), cells * f * (1 - f), i * (1 - g * g)], dim=2)
    return o * (1 - squashed * squashed), squashed * o * (1 - o), rest_by_cell, f.clone()


def fused(projected: Tensor, w_hh: Tensor) -> tuple[Tensor, Tensor, Backward]:
    """PyTorch's fused kernel behind an identity; see `Kernel`."""
    leaf = projected.detach().requires_grad_()
    identity = torch.eye(len(w_hh), device=w_hh.device, dtype=w_hh.dtype)
    zero = projected.new_zeros(1, projected.shape[1], w_hh.shape[1])
    with torch.enable_grad(), warnings.catch_warnings():
        # cuDNN would like the identity and W_hh next to each other in memory.
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single")
        outputs, _, cell = torch.lstm(
            leaf, (zero, zero), [identity, w_hh],
            has_biases=False, num_layers=1, dropout=0.0, train=True, bidirectional=False,
            batch_first=False,
        )  # fmt: skip

    def backward(grad_hidden: Tensor, grad_cell: Tensor) -> Tensor:
        grads = (grad_hidden, grad_cell.unsqueeze(0))
        return torch.autograd.grad((outputs, cell), leaf, grads)[0]

    return outputs.detach(), cell.detach().squeeze(0), backward
