"""Gradients of units with respect to one parameter, in the form that is cheapest to get.

A unit's gradient is the sum of its examples' gradients (units.py). DP-SGD asks two things of the
gradients of all units: their norms, and their sum weighted by the clipping factors. A unit whose
norm is not finite has to be taken out of the sum (`without`), since 0 * inf is no zero; and nothing
of it may reach the norms of others.

`Full` holds them. `BookKept` never forms them: a dense layer's gradient is a sum of outer products,
and so the norm comes from products of the factors (Goodfellow 2015, "Efficient per-example gradient
computations"; over positions, ghost norms: Li et al. 2022, "Large language models can be strong
differentially private learners", 4) and the weighted sum from one more product over the batch
(Bu et al. 2023, "Differentially private optimization on large model at small cost").

Shape letters: B = examples, U = units, O = outputs, I = inputs, L = positions, R = rows (examples
times positions), P... = shape of the parameter.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy.units import Units

# A unit's examples may pull in opposite directions and cancel; what float32 rounds off in their
# weighted sum does not. This share c of (the sum of their norms) squared, added to the squared
# norm, keeps the clipped sum and its rounding within the bound: with t the norm of the sum over the
# sum of the norms, and k roundings of e = 6e-8, (t + k e) / sqrt(t^2 + c) is largest at
# t = c / (k e), where it is 1 + (k e)^2 / 2c, which is 1 + 1e-6 at k = 10.
_CANCELLATION = 2e-7

# Least squared norm of a row in a product of two. The squares of a saturated model's rows are zero
# in float32, and with inputs of 1e18 such a row still makes a gradient beyond the bound, whose norm
# would read zero. It is overstated instead, as that of a row of length 1e-15.
_LEAST_SQUARE = 1e-30

# To write, square and weigh one number of a gradient takes as long as this many multiply-adds.
_NUMBER = 24


# Numbers of one parameter's gradients that are laid beside those of others.
_SMALL = 1 << 16

# Numbers of one unit's gradient that are squared on their own.
_LONG = 1 << 13


class UnitGradients(Protocol):
    """The gradients of U units with respect to one parameter. Sensitive until clipped."""

    def squared_norms(self) -> Tensor:
        """Squared L2 norm of each unit's gradient, or barely more, [U]."""
        ...

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Sum over units of factors [U] times gradient, [P...]."""
        ...

    def in_full(self) -> Tensor:
        """The gradients themselves, [U, P...]."""
        ...

    def without(self, lost: Tensor) -> "UnitGradients":
        """The same with zeros for the units that are lost, bool [U], whatever theirs were."""
        ...


@dataclass(frozen=True)
class Full:
    """Gradients held in full: `values` [U, P...]."""

    values: Tensor

    def squared_norms(self) -> Tensor:
        """See `UnitGradients.squared_norms`."""
        # Not a dot product, which adds one by one and so rounds more than the margin allows for.
        flat = self.values.flatten(1)
        if flat.shape[1] <= _LONG:
            return flat.square().sum(dim=1)
        # One at a time, so that the squares stay in cache.
        return torch.stack([one.square().sum() for one in flat.unbind(0)])

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """See `UnitGradients.weighted_sum`."""
        return (factors @ self.values.flatten(1)).view(self.values.shape[1:])

    def in_full(self) -> Tensor:
        """See `UnitGradients.in_full`."""
        return self.values

    def without(self, lost: Tensor) -> "Full":
        """See `UnitGradients.without`."""
        return Full(_zeroed(self.values, lost))


@dataclass(frozen=True)
class BookKept:
    """Gradients that are known by their norms and by what makes them.

    Attributes:
        norms: squared, [U], not understated.
        units: whose they are.
        rows: left and right, each [B, ...]; the gradients are linear in either.
        add: from left and right to the sum of all units' gradients, [P...].
        form: from left and right to the gradients in full, [U, P...].
    """

    norms: Tensor
    units: Units
    rows: tuple[Tensor, Tensor]
    add: Callable[[Tensor, Tensor], Tensor]
    form: Callable[[Tensor, Tensor], Tensor]

    def squared_norms(self) -> Tensor:
        """See `UnitGradients.squared_norms`."""
        return self.norms

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """See `UnitGradients.weighted_sum`."""
        left, right = self.rows
        return self.add(left * _along(self.units.spread(factors), left), right)

    def in_full(self) -> Tensor:
        """See `UnitGradients.in_full`."""
        return self.form(*self.rows)

    def without(self, lost: Tensor) -> "BookKept":
        """See `UnitGradients.without`."""
        examples = self.units.spread(lost)
        left, right = (_zeroed(rows, examples) for rows in self.rows)
        return replace(self, norms=_zeroed(self.norms, lost), rows=(left, right))


def _along(values: Tensor, rows: Tensor) -> Tensor:
    """One value for each row [R, ...], in a shape that goes with the rows."""
    return values.view(-1, *[1] * (rows.dim() - 1))


def _zeroed(rows: Tensor, lost: Tensor) -> Tensor:
    return rows.masked_fill(_along(lost, rows), 0.0)


@dataclass(frozen=True)
class Together:
    """The gradients of U units with respect to all parameters, P numbers.

    Those of small parameters, held in full, are laid side by side: a small model's step would
    otherwise be spent on calls.

    Attributes:
        parts: gradients, each of one parameter or of several side by side.
        order: for each parameter its part and its place there, from and to.
    """

    parts: tuple[UnitGradients, ...]
    order: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, gradients: Sequence[UnitGradients]) -> "Together":
        """From the gradients with respect to each parameter."""
        small: list[Tensor] = []
        large: list[UnitGradients] = []
        order, width = [], 0
        for g in gradients:
            if isinstance(g, Full) and g.values.numel() <= _SMALL:
                small.append(g.values.flatten(1))
                stop = width + small[-1].shape[1]
                order.append((-1, width, stop))
                width = stop
            else:
                order.append((len(large), 0, sys.maxsize))
                large.append(g)
        last = (Full(torch.cat(small, dim=1)),) if small else ()
        return cls((*large, *last), tuple(order))

    def squared_norms(self) -> Tensor:
        """Squared L2 norm of each unit's gradient over all parameters, [U]."""
        first, *rest = (part.squared_norms() for part in self.parts)
        return sum(rest, start=first)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Sum over units of factors [U] times gradient, [P]."""
        sums = [part.weighted_sum(factors).flatten() for part in self.parts]
        if len(sums) == 1:
            return sums[0]
        return torch.cat([sums[part][start:stop] for part, start, stop in self.order])

    def without(self, lost: Tensor) -> "Together":
        """See `UnitGradients.without`."""
        return replace(self, parts=tuple(part.without(lost) for part in self.parts))


def dense(units: Units, left: Tensor, right: Tensor) -> tuple[UnitGradients, str]:
    """Gradients of a matrix, sums of outer products of left [B, L..., O] and right [B, L..., I].

    Returns:
        The gradients, and which path was taken to their norms.
    """
    outputs, inputs = left.shape[-1], right.shape[-1]
    one_row = left.dim() == 2
    if one_row and units.single:
        norms = _squares(left) * _squares(right)
        path = "book-keeping, products of norms"
    elif not norms_are_cheaper(units, left[0, ..., 0].numel(), outputs, inputs):
        return Full(units.products(left, right)), "materialised"
    elif one_row:
        norms = _norms_of_examples(units, left, right)
        path = "book-keeping, products of examples"
    else:
        norms = norms_of_rows(units.split(left.flatten(1, -2), right.flatten(1, -2)))
        path = "book-keeping, ghost norms"

    def add(left: Tensor, right: Tensor) -> Tensor:
        return left.reshape(-1, outputs).t() @ right.reshape(-1, inputs)

    return BookKept(norms, units, (left, right), add, units.products), path


def norms_are_cheaper(units: Units, positions: int, outputs: int, inputs: int) -> bool:
    """Whether to take norms from products of rows instead of forming U times O times I numbers.

    The choice of Bu et al. 2022, "Scalable and efficient training of large convolutional neural
    networks with differential privacy", 3.3, by time and for units.
    """
    if positions == 1:
        pairs = units.examples**2  # all of the batch at once, other units' pairs left out after
    else:
        pairs = sum((size * positions) ** 2 for size in units.sizes)
    return pairs * (outputs + inputs + _NUMBER) < _NUMBER * len(units) * outputs * inputs


def _squares(rows: Tensor) -> Tensor:
    """Squared norms of rows [R, ...], or barely more, [R]."""
    return rows.square().sum(dim=1).clamp_min(_LEAST_SQUARE)


def _norms_of_examples(units: Units, left: Tensor, right: Tensor) -> Tensor:
    """Squared norms [U] of each unit's sum of outer products of left [B, O] and right [B, I]."""
    pairs = _pairs(left) * _pairs(right)
    alone = units.sums(pairs.diagonal().sqrt())
    same = units.of_examples.unsqueeze(1) == units.of_examples
    # Not a product with 0 and 1: what is not finite would reach all other units' norms.
    own = pairs.masked_fill(~same, 0.0).sum(dim=1)
    return _not_understated(units.sums(own), alone).to(left.dtype)


def norms_of_rows(units: Iterable[tuple[Tensor, ...]]) -> Tensor:
    """Squared norms [U] of each unit's sum of outer products of rows.

    Args:
        units: each unit's factors [b, L, O] and [b, L, I], b its examples; one unit at a time.
    """
    norms = []
    for left, right in units:
        pairs = _pairs(left.flatten(0, 1)) * _pairs(right.flatten(0, 1))
        norms.append(_not_understated(pairs.sum(), pairs.diagonal().sqrt().sum()).to(left.dtype))
    return torch.stack(norms)


def _pairs(rows: Tensor) -> Tensor:
    """Products of all pairs of rows [R, ...], float64 [R, R], so that what cancels is nothing."""
    rows = rows.double()
    return rows @ rows.t()


def _not_understated(together: Tensor, alone: Tensor) -> Tensor:
    return together.clamp_min(0.0) + _CANCELLATION * alone.square()


def record(parameter: Tensor | None, gradients: UnitGradients) -> None:
    """Leave a layer's gradients at its parameter; those of a second use are added to the first."""
    if parameter is None or not parameter.requires_grad:
        return
    earlier = getattr(parameter, "grad_sample", None)
    if earlier is not None:
        gradients = Full(_unit_gradients(earlier, None).in_full() + gradients.in_full())
    parameter.grad_sample = gradients  # type: ignore[attr-defined]  # Opacus' name for it


def recorded(parameter: Tensor, units: Units) -> UnitGradients:
    """What `record` or an Opacus grad sampler left at a parameter.

    Raises:
        PrivacyError: nothing is there, so that the parameter's gradient could not be clipped.
    """
    return _unit_gradients(getattr(parameter, "grad_sample", None), units)


def _unit_gradients(found: object, units: Units | None) -> UnitGradients:
    if isinstance(found, Full | BookKept):
        return found
    if isinstance(found, Tensor) and units is not None:
        return Full(units.sums(found))  # Opacus has them by example
    raise PrivacyError(
        f"A parameter of the model has no per-example gradient (found {type(found).__name__}), so "
        "it cannot be clipped; the module must be in training mode, use every parameter, and share "
        "none between layers of different kinds."
    )
