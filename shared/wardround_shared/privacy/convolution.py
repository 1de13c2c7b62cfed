"""Convolutions of one to three dimensions with gradients of units.

Shape letters: B = examples, U = units, C = channels, O = outputs, I = inputs (channels times size
of the kernel), L... = positions.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from wardround_shared.privacy.batch import Batch
from wardround_shared.privacy.gradients import (
    BookKept,
    Full,
    UnitGradients,
    norms_are_cheaper,
    norms_of_rows,
    record,
)
from wardround_shared.privacy.units import Units

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

# Numbers that can be brought into another order in the time that one more call takes.
_A_CALL = 40_000


def can_convolve(layer: Convolution) -> bool:
    """Whether `convolution` knows the layer's padding."""
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def convolution(layer: Convolution, batch: Batch, x: Tensor) -> Any:
    """What `layer(x)` gives for x [B, C, L...]."""
    return _Convolution.apply(layer, batch, x, layer.weight, layer.bias)  # type: ignore[no-untyped-call]


class _Convolution(Function):
    @staticmethod
    def forward(
        ctx: Any, layer: Convolution, batch: Batch, x: Tensor, *weights: Tensor | None
    ) -> Tensor:
        weight, bias = weights
        assert weight is not None  # the type says so only for the bias
        # The layout that the layer works in, so that nothing has to be brought into it again.
        x = x.contiguous(memory_format=_layout(weight))
        ctx.layer, ctx.batch = layer, batch
        ctx.save_for_backward(x, weight)
        return torch.convolution(
            x, weight, bias, *_geometry(layer), transposed=False,
            output_padding=[0] * (x.dim() - 2), groups=layer.groups,
        )  # fmt: skip

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        layer, batch = ctx.layer, ctx.batch
        x, weight = ctx.saved_tensors
        units = batch.units_of(x)
        grad = grad.contiguous(memory_format=_layout(weight))
        path, of_weight, of_bias = _gradients(layer, units, grad, x, weight)
        record(layer.weight, of_weight)
        record(layer.bias, Full(of_bias))
        batch.paths[layer] = path
        wanted = None
        if ctx.needs_input_grad[2]:
            wanted = _backward(layer, grad, x, weight, wanted=[True, False, False])[0]
        return None, None, wanted, None, None


def _layout(weight: Tensor) -> torch.memory_format:
    """The layout in memory that the kernels [O, C, ...] ask for."""
    last = weight.dim() == 4 and weight.stride(1) == 1 and weight.stride(2) != 1
    return torch.channels_last if last else torch.contiguous_format


def _geometry(layer: Convolution) -> tuple[list[int], list[int], list[int]]:
    assert not isinstance(layer.padding, str)  # `can_convolve` has said so
    return list(layer.stride), list(layer.padding), list(layer.dilation)


def _backward(
    layer: Convolution,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    *,
    wanted: list[bool],
    groups: int = 1,
) -> Any:
    """Gradients with respect to input, weight and bias, for `groups` times the layer's groups."""
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [grad.shape[1]], *_geometry(layer), False, [0] * (x.dim() - 2),
        groups * layer.groups, wanted,
    )  # fmt: skip


def _gradients(
    layer: Convolution, units: Units, grad: Tensor, x: Tensor, weight: Tensor
) -> tuple[str, UnitGradients, Tensor]:
    """Path, gradients of the kernels, and of the bias [U, O], by what takes least time.

    Nothing is unfolded to form gradients: that took two to eight times as long.
    """
    inputs = weight[0].numel()
    if (
        isinstance(layer, nn.Conv1d | nn.Conv2d)  # PyTorch cannot unfold a volume
        and layer.groups == 1
        and norms_are_cheaper(units, grad[0, 0].numel(), len(weight), inputs)
    ):
        of_bias = units.sums(grad.flatten(2).sum(dim=2))
        return "book-keeping, ghost norms", _ghost(layer, units, grad, x, weight), of_bias
    # Units as groups of one big convolution need another order in memory, unit by unit many calls.
    if units.single or (x.numel() + grad.numel() < len(units) * _A_CALL):
        of_bias = units.sums(grad.flatten(2).sum(dim=2))
        full = Full(_units_as_groups(layer, units, grad, x, weight))
        return "materialised, units as groups", full, of_bias
    parts = [
        _backward(layer, a, b, weight, wanted=[False, True, True])[1:]
        for a, b in units.split(grad, x)
    ]
    of_weight, biases = (torch.stack(some) for some in zip(*parts, strict=True))
    return "materialised, unit by unit", Full(of_weight), biases


def _units_as_groups(
    layer: Convolution, units: Units, grad: Tensor, x: Tensor, weight: Tensor
) -> Tensor:
    """Gradients of the kernels, [U, *weight.shape].

    The kernel gradient of a group is then that of a unit (Rochette et al. 2019, "Efficient
    per-example gradient computations in convolutional neural networks"). One convolution serves all
    units with the same number of examples.
    """
    if units.alike:
        return _units_of_one_size(layer, units.sizes[0], grad, x, weight)
    result = weight.new_empty(len(units), *weight.shape)
    for size, members, examples in units.by_size():
        their_grad, their_x = (values.index_select(0, examples) for values in (grad, x))
        result[members] = _units_of_one_size(layer, size, their_grad, their_x, weight)
    return result


def _units_of_one_size(
    layer: Convolution, size: int, grad: Tensor, x: Tensor, weight: Tensor
) -> Tensor:
    count = len(x) // size
    # Only its shape is looked at.
    kernels = weight.new_empty(()).expand(count * len(weight), *weight.shape[1:])
    big_grad, big_x = _as_channels(grad, size), _as_channels(x, size)
    wanted = [False, True, False]
    result: Tensor = _backward(layer, big_grad, big_x, kernels, wanted=wanted, groups=count)[1]
    return result.reshape(count, *weight.shape)


def _as_channels(values: Tensor, size: int) -> Tensor:
    """[U size, C, L...] as [size, U C, L...]."""
    by_unit = values.reshape(-1, size, *values.shape[1:])
    return by_unit.transpose(0, 1).reshape(size, -1, *values.shape[2:])


def _ghost(
    layer: nn.Conv1d | nn.Conv2d, units: Units, grad: Tensor, x: Tensor, weight: Tensor
) -> UnitGradients:
    """Gradients of the kernels by the products of all pairs of positions."""
    norms = norms_of_rows(
        (g.flatten(2).transpose(1, 2), _patches(layer, part).transpose(1, 2))
        for g, part in units.split(grad, x)
    )

    def add(grad: Tensor, x: Tensor) -> Tensor:
        result: Tensor = _backward(layer, grad, x, weight, wanted=[False, True, False])[1]
        return result

    def form(grad: Tensor, x: Tensor) -> Tensor:
        return _units_as_groups(layer, units, grad, x, weight)

    return BookKept(norms, units, (grad, x), add, form)


def _patches(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """What the kernel sees at each position, [B, I, L]."""
    stride, padding, dilation = _geometry(layer)
    if x.dim() == 3:  # a signal is an image of one row
        x = x.unsqueeze(2)
        stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
    kernel = ([1] * x.dim() + list(layer.kernel_size))[-2:]
    result: Tensor = torch.ops.aten.im2col(x, kernel, dilation, padding, stride)
    return result
