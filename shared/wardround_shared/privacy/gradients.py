"""Per-example gradients of one parameter, in the form in which a layer gets them cheapest.

DP-SGD asks two things of them: their norms, and their sum weighted by the clipping factors. A dense
layer answers both without ever forming the gradients (Goodfellow 2015, "Efficient per-example
gradient computations"; Bu et al. 2023, "Differentially private optimization on large model at small
cost", book-keeping); all others hold them in full.

Shape letters: B = examples, O = outputs, I = inputs, P... = shape of the parameter.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from wardround_shared.errors import PrivacyError


class ExampleGradients(Protocol):
    """The gradients of B examples with respect to one parameter. Sensitive until clipped."""

    def squared_norms(self) -> Tensor:
        """Squared L2 norm of each example's gradient, [B]."""
        ...

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Sum over examples of weights [B] times gradient, [P...]."""
        ...

    def in_full(self) -> Tensor:
        """The gradients themselves, [B, P...]."""
        ...


@dataclass(frozen=True)
class Full:
    """Gradients held in full: `values` [B, P...]."""

    values: Tensor

    def squared_norms(self) -> Tensor:
        """See `ExampleGradients.squared_norms`."""
        return self.values.flatten(1).square().sum(dim=1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """See `ExampleGradients.weighted_sum`."""
        return (weights @ self.values.flatten(1)).view(self.values.shape[1:])

    def in_full(self) -> Tensor:
        """See `ExampleGradients.in_full`."""
        return self.values


@dataclass(frozen=True)
class Outer:
    """Gradients of rank one: the outer product of `left` [B, O] and `right` [B, I]."""

    left: Tensor
    right: Tensor

    def squared_norms(self) -> Tensor:
        """See `ExampleGradients.squared_norms`."""
        return self.left.square().sum(dim=1) * self.right.square().sum(dim=1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """See `ExampleGradients.weighted_sum`."""
        return (self.left * weights.unsqueeze(1)).t() @ self.right

    def in_full(self) -> Tensor:
        """See `ExampleGradients.in_full`."""
        return self.left.unsqueeze(2) * self.right.unsqueeze(1)


def record(parameter: nn.Parameter | None, gradients: ExampleGradients) -> None:
    """Leave a layer's gradients at its parameter; those of a second use are added to the first."""
    if parameter is None or not parameter.requires_grad:
        return
    earlier = getattr(parameter, "grad_sample", None)
    if earlier is not None:
        gradients = Full(_example_gradients(earlier).in_full() + gradients.in_full())
    parameter.grad_sample = gradients  # type: ignore[attr-defined]  # Opacus' name for it


def recorded(parameter: nn.Parameter) -> ExampleGradients:
    """What `record` or an Opacus grad sampler left at a parameter.

    Raises:
        PrivacyError: nothing is there, so that the parameter's gradient could not be clipped.
    """
    return _example_gradients(getattr(parameter, "grad_sample", None))


def _example_gradients(found: object) -> ExampleGradients:
    if isinstance(found, Tensor):
        return Full(found)
    if isinstance(found, Full | Outer):
        return found
    raise PrivacyError(
        f"A parameter of the model has no per-example gradient (found {type(found).__name__}), so "
        "it cannot be clipped; the module must be in training mode, use every parameter, and share "
        "none between layers of different kinds."
    )
