"""Layers that leave the gradients of units behind in one backward pass.

`patched` gives the forward that a layer uses while differential privacy is on. It computes what the
layer computes; its backward records gradients of units (see gradients.py) where autograd would have
formed the sum over the batch, so that this sum is not computed in vain. Layers without an entry
here are left to Opacus' own grad samplers.

Shape letters: B = examples, O = outputs, I = inputs, L... = further dimensions of a dense layer's
input.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # PyTorch's own name for it
from torch import Tensor, nn

from wardround_shared.privacy.batch import Batch, Use
from wardround_shared.privacy.convolution import can_convolve, convolution
from wardround_shared.privacy.embedding import can_embed, embedding
from wardround_shared.privacy.gru import gru
from wardround_shared.privacy.normalisation import group_norm
from wardround_shared.privacy.recurrent import lstm

Forward = Callable[..., Any]


def patched(layer: nn.Module, batch: Batch) -> Forward | None:
    """The forward of `layer` under differential privacy; None: Opacus has to do it.

    Exact types only: a subclass may compute something else.

    Args:
        layer: of the module that is trained.
        batch: says at the time of the backward pass whose examples are in it.
    """
    forward = _FORWARDS.get(type(layer))
    if forward is None or not any(p.requires_grad for p in layer.parameters()):
        return None
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and not can_convolve(layer):
        return None
    if isinstance(layer, nn.Embedding) and not can_embed(layer):
        return None
    if isinstance(layer, nn.LSTM) and layer.proj_size:
        return None
    return partial(_in_a_step, layer, forward, batch)


def _in_a_step(layer: nn.Module, forward: Forward, batch: Batch, *args: Any, **kwargs: Any) -> Any:
    """Evaluation, and whatever happens outside of a step, takes the layer's own way."""
    if batch.units is not None and torch.is_grad_enabled():
        return forward(layer, batch, *args, **kwargs)
    return type(layer).forward(layer, *args, **kwargs)


def _linear(layer: nn.Linear, batch: Batch, x: Tensor) -> Tensor:
    """A dense layer on [B, I] or [B, L..., I].

    It is only noted, to ask for the gradient at its output later: an autograd function of its own,
    or a hook, would take a small model a quarter of its step.
    """
    bias = None if layer.bias is None else layer.bias.detach()
    output = F.linear(x, layer.weight.detach(), bias)
    if not output.requires_grad:
        output.requires_grad_()  # the first layer
    batch.uses.append(Use.of(layer, x, output))
    return output


def backward(batch: Batch, total: Tensor, others: list[Tensor]) -> None:
    """Leave gradients of units at every parameter.

    Args:
        batch: whose dense layers were noted in the forward pass.
        total: sum of the losses.
        others: parameters of all other layers, which record their gradients in the backward pass.
    """
    outputs = [use.output for use in batch.uses]
    grads = torch.autograd.grad(total, outputs + others, allow_unused=True)
    with torch.no_grad():
        for use, grad in zip(batch.uses, grads, strict=False):
            if grad is not None:
                use.record(batch, grad)


_FORWARDS: dict[type[nn.Module], Forward] = {
    nn.Linear: _linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Conv3d: convolution,
    nn.GroupNorm: group_norm,
    nn.Embedding: embedding,
    nn.LSTM: lstm,
    nn.GRU: gru,
}
