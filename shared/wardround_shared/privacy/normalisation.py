"""Group normalisation with gradients of units.

Shape letters: B = examples, C = channels, L... = positions, G = groups.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from wardround_shared.privacy.batch import Batch
from wardround_shared.privacy.gradients import Full, record
from wardround_shared.privacy.units import Units


def group_norm(layer: nn.GroupNorm, batch: Batch, x: Tensor) -> Any:
    """What `layer(x)` gives for x [B, C, L...]."""
    return _GroupNorm.apply(layer, batch, x, layer.weight, layer.bias)  # type: ignore[no-untyped-call]


class _GroupNorm(Function):
    """Group normalisation (Wu and He 2018)."""

    @staticmethod
    def forward(ctx: Any, layer: nn.GroupNorm, batch: Batch, x: Tensor, *weights: Tensor) -> Tensor:
        weight, bias = weights
        x = x if _channels_last(x) else x.contiguous()
        sizes = (len(x), x.shape[1], x[0, 0].numel(), layer.num_groups)
        result, mean, scale = torch.native_group_norm(x, weight, bias, *sizes, layer.eps)
        ctx.layer, ctx.batch = layer, batch
        ctx.save_for_backward(x, weight, mean, scale)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        layer, batch = ctx.layer, ctx.batch
        x, weight, mean, scale = ctx.saved_tensors
        units = batch.units_of(x)
        if _channels_last(x):
            path = "materialised, unit by unit"
            kept = (grad.contiguous(memory_format=torch.channels_last), x, mean, scale)
            grad_x, of_weight, of_bias = _unit_by_unit(layer, units, kept, weight)
        else:
            path = "materialised, examples as groups"
            kept = (grad.contiguous(), x, mean, scale)
            grad_x, *by_example = _examples_as_groups(layer, kept, weight)
            of_weight, of_bias = (units.sums(values) for values in by_example)
        record(layer.weight, Full(of_weight))
        record(layer.bias, Full(of_bias))
        batch.paths[layer] = path
        return None, None, grad_x, None, None


def _channels_last(x: Tensor) -> bool:
    return (
        x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
    )


def _backward(grad: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to input, weight and bias.

    All of them: PyTorch 2.13 ends the process where the channels are last and some are not wanted.
    """
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_group_norm_backward(
        grad, x, *rest, [True, True, True]
    )
    return result


def _examples_as_groups(
    layer: nn.GroupNorm, kept: tuple[Tensor, ...], weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """All examples as the channels of a single one, whose weights' gradients [B, C] are theirs.

    Args:
        layer: whose gradients are wanted.
        kept: gradient at the output and input, [B, C, L...]; mean and scale of its groups, [B, G].
        weight: [C].
    """
    grad, x, mean, scale = kept
    examples, channels = x.shape[:2]
    sizes = (1, examples * channels, x[0, 0].numel(), examples * layer.num_groups)
    one = (grad.view(1, sizes[1], -1), x.view(1, sizes[1], -1), mean.view(1, -1), scale.view(1, -1))
    grad_x, of_weight, of_bias = _backward(*one, weight.repeat(examples), *sizes)
    return grad_x.view_as(x), of_weight.view(examples, -1), of_bias.view(examples, -1)


def _unit_by_unit(
    layer: nn.GroupNorm, units: Units, kept: tuple[Tensor, ...], weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """With the channels last in memory, examples could be seen as channels only after a copy."""
    _, channels, *positions = kept[1].shape
    parts = [
        _backward(*part, weight, len(part[0]), channels, math.prod(positions), layer.num_groups)
        for part in units.split(*kept)
    ]
    grads, of_weight, of_bias = zip(*parts, strict=True)
    return torch.cat(grads), torch.stack(of_weight), torch.stack(of_bias)
