"""Layers that leave per-example gradients behind in one backward pass.

`patched` gives the forward that a layer uses while differential privacy is on. It computes what the
layer computes; its backward records per-example gradients (see gradients.py) where autograd would
have formed the sum over the batch, so that this sum is not computed in vain. Layers without an
entry here are left to Opacus' own grad samplers.

Shape letters: B = examples, C = channels, O = outputs, I = inputs, L = positions (height x width),
T = further dimensions of a dense layer's input, G = groups.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # PyTorch's own name for it
from torch import Tensor, nn
from torch.autograd import Function

from wardround_shared.privacy.gradients import Full, Outer, record
from wardround_shared.privacy.recurrent import lstm

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def patched(layer: nn.Module) -> Callable[..., Any] | None:
    """The forward of `layer` under differential privacy; None: Opacus has to do it.

    Exact types only: a subclass may compute something else.
    """
    forward = _FORWARDS.get(type(layer))
    if forward is None or not any(p.requires_grad for p in layer.parameters()):
        return None
    if isinstance(layer, _Convolution) and not _plain_padding(layer):
        return None
    if isinstance(layer, nn.LSTM) and layer.proj_size:
        return None
    return partial(_unless_without_grad, layer, forward)


def _unless_without_grad(
    layer: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Evaluation needs no gradients and takes the layer's own, faster way."""
    if torch.is_grad_enabled():
        return forward(layer, *args, **kwargs)
    return type(layer).forward(layer, *args, **kwargs)


def _plain_padding(layer: _Convolution) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


class _Linear(Function):
    """A dense layer on [B, I] or [B, T..., I]."""

    @staticmethod
    def forward(
        ctx: Any, layer: nn.Linear, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        if x.dim() == 2:
            record(ctx.layer.weight, Outer(grad, x))
            record(ctx.layer.bias, Full(grad))
        else:
            by_position = grad.flatten(1, -2)
            record(ctx.layer.weight, Full(torch.bmm(by_position.transpose(1, 2), x.flatten(1, -2))))
            record(ctx.layer.bias, Full(by_position.sum(dim=1)))
        return None, grad @ weight if ctx.needs_input_grad[1] else None, None, None


class _Conv(Function):
    """A convolution of one to three dimensions on [B, C, L...]."""

    @staticmethod
    def forward(
        ctx: Any, layer: _Convolution, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x, weight)
        return torch.convolution(
            x, weight, bias, *_geometry(layer), transposed=False,
            output_padding=[0] * (x.dim() - 2), groups=layer.groups,
        )  # fmt: skip

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        layer = ctx.layer
        x, weight = ctx.saved_tensors
        record(layer.weight, Full(_example_kernels(layer, x, weight, grad)))
        record(layer.bias, Full(grad.flatten(2).sum(dim=2)))
        wanted = None
        if ctx.needs_input_grad[1]:
            wanted = _backward(
                grad, x, weight, layer=layer, groups=layer.groups, wanted=[True, False, False]
            )[0]
        return None, wanted, None, None


def _geometry(layer: _Convolution) -> tuple[list[int], list[int], list[int]]:
    assert not isinstance(layer.padding, str)  # `patched` leaves these to Opacus
    return list(layer.stride), list(layer.padding), list(layer.dilation)


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, *, layer: _Convolution, groups: int, wanted: list[bool]
) -> Any:
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, *_geometry(layer), False, [0] * (x.dim() - 2), groups, wanted
    )


def _example_kernels(layer: _Convolution, x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """Per-example gradients of the kernels, [B, *weight.shape].

    The examples become groups of one big convolution: the kernel gradient of a group is then that
    of an example (Rochette et al. 2019, "Efficient per-example gradient computations in
    convolutional neural networks"). Nothing is unfolded, which took twice to eight times as long.
    """
    examples = len(x)
    kernels = weight.repeat(examples, *[1] * (weight.dim() - 1))  # only its shape matters
    one = x.reshape(1, -1, *x.shape[2:])
    result: Tensor = _backward(
        grad.reshape(1, -1, *grad.shape[2:]), one, kernels, layer=layer,
        groups=examples * layer.groups, wanted=[False, True, False],
    )[1]  # fmt: skip
    return result.reshape(examples, *weight.shape)


class _GroupNorm(Function):
    """Group normalisation (Wu and He 2018) on [B, C, L...]."""

    @staticmethod
    def forward(ctx: Any, layer: nn.GroupNorm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous()
        size = (len(x), x.shape[1], x[0, 0].numel(), layer.num_groups)
        result, mean, scale = torch.native_group_norm(x, weight, bias, *size, layer.eps)
        ctx.layer, ctx.size = layer, size
        ctx.save_for_backward(x, weight, mean, scale)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, mean, scale = ctx.saved_tensors
        grad = grad.contiguous()
        a_group = ctx.size[1] // ctx.size[3]
        mean_bc, scale_bc = (s.repeat_interleave(a_group, dim=1) for s in (mean, scale))
        grad_bc = grad.flatten(2).sum(dim=2)
        product_bc = (grad * x).flatten(2).sum(dim=2)
        record(ctx.layer.weight, Full((product_bc - grad_bc * mean_bc) * scale_bc))
        record(ctx.layer.bias, Full(grad_bc))
        wanted = None
        if ctx.needs_input_grad[1]:
            wanted = torch.ops.aten.native_group_norm_backward(
                grad, x, mean, scale, weight, *ctx.size, [True, False, False]
            )[0]
        return None, wanted, None, None


def _forward_of(function: type[Function]) -> Callable[..., Any]:
    def forward(layer: Any, x: Tensor) -> Any:
        return function.apply(layer, x, layer.weight, layer.bias)

    return forward


_FORWARDS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.Linear: _forward_of(_Linear),
    nn.Conv1d: _forward_of(_Conv),
    nn.Conv2d: _forward_of(_Conv),
    nn.Conv3d: _forward_of(_Conv),
    nn.GroupNorm: _forward_of(_GroupNorm),
    nn.LSTM: lstm,
}
