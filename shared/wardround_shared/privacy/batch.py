"""What the layers of a module under differential privacy know of the batch at hand.

Shape letters: B = examples, O = outputs, I = inputs, L... = further dimensions of a dense layer's
input.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from wardround_shared.privacy.gradients import Full, dense, record
from wardround_shared.privacy.units import Units


class Batch:
    """Shared by the layers of one module that layers.py knows.

    Attributes:
        units: whose examples are in the batch; None outside of a step.
        uses: of dense layers, whose gradients are recorded after the backward pass.
        paths: how each layer got its gradients in the last step.
    """

    def __init__(self) -> None:
        self.units: Units | None = None
        self.uses: list[Use] = []
        self.paths: dict[nn.Module, str] = {}

    def units_of(self, values: Tensor, dim: int = 0) -> Units:
        """The units whose examples lie along a dimension of what a layer sees.

        Raises:
            PrivacyError: the layer sees another number of examples than there are in the batch.
        """
        assert self.units is not None  # layers take their own way outside of a step
        self.units.require_all(values, dim)
        return self.units

    def forget(self) -> None:
        """Drop what was derived from examples."""
        self.units = None
        self.uses.clear()


@dataclass(frozen=True)
class Use:
    """A dense layer's input x [B, I] or [B, L..., I] and output, as the forward pass left them."""

    layer: nn.Linear
    x: Tensor
    output: Tensor
    versions: tuple[int, int]

    @classmethod
    def of(cls, layer: nn.Linear, x: Tensor, output: Tensor) -> "Use":
        """Note a use, and what would show that it was changed in place after."""
        return cls(layer, x.detach(), output, (x._version, output._version))  # noqa: SLF001

    def record(self, batch: Batch, grad: Tensor) -> None:
        """Leave the gradients of units at the layer, from the gradient at the output."""
        if self.versions != (self.x._version, self.output._version):  # noqa: SLF001
            raise RuntimeError(
                "under DP what enters or leaves a dense layer must not be changed in place"
            )
        units = batch.units_of(self.x)
        weight, batch.paths[self.layer] = dense(units, grad, self.x)
        record(self.layer.weight, weight)
        bias = self.layer.bias
        if bias is not None:
            by_example = grad if grad.dim() == 2 else grad.flatten(1, -2).sum(dim=1)
            record(bias, Full(units.sums(by_example)))
