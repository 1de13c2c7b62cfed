"""DP-SGD (Abadi et al. 2016, "Deep learning with differential privacy", algorithm 1).

A step draws each unit independently (Poisson sampling), a unit being a patient with his examples or
a single example. It sums the gradients of a unit's examples, clips that sum over all parameters
together to max_grad_norm, adds the units up, adds Gaussian noise of standard deviation
noise_multiplier * max_grad_norm to every coordinate of the sum, and divides by the expected number
of units. One unit's presence changes the sum before noise by at most max_grad_norm, however many
examples it has; accounting.py turns that into epsilon. The size of the drawn batch is never used:
it would reveal who is in it.

A unit whose summed gradient is not finite (extreme values in its data, or a model that has
diverged) contributes zero, which is within the bound; an error would tell the server that this unit
is there. Where no unit's gradient is finite, as in a model that has diverged for good, steps are of
noise only.

Opacus is the frame: `_ExampleModule` is its GradSampleModule with faster layers (layers.py), and
clipping.py its DPOptimizer with exact clipping and noise from a `NoiseSource`.

Shape letters: B = examples, U = units, K = classes, P... = shape of a parameter.
"""

import math
import sys
import warnings
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy.batch import Batch
from wardround_shared.privacy.clipping import NoisyOptimiser
from wardround_shared.privacy.layers import backward, patched
from wardround_shared.privacy.noise import NoiseSource
from wardround_shared.privacy.units import Units, by_patient, whole_units

# Of max-grad-norm, as in the study file. Far below, the squares of gradients that should be clipped
# underflow in float32, their norm reads zero and nothing is clipped: at a bound of 1e-24 a unit
# moved the sum by five times as much. Far above, squares overflow and units are lost.
_LEAST_BOUND, _LARGEST_BOUND = 1e-6, 1e6


class DpSgd:
    """Differentially private steps of one local training, on a plain module and its optimiser.

    The module keeps its parameters and their order; `close` (or leaving the `with` block) takes
    everything away again that was attached to it.

    Args:
        module: in training mode, without BatchNorm; called as module(*inputs).
        optimiser: over exactly the module's trainable parameters; its own step hooks run after
            the noise is added, so they must not look at data.
        noise_multiplier: noise standard deviation over max_grad_norm; positive.
        max_grad_norm: L2 bound on one unit's gradient; from 1e-6 to 1e6.
        expected_batch_size: sample rate times number of units; positive.
        noise: where the noise is drawn from.
        max_physical_batch: examples that are held in memory at once; larger batches are split
            between units, which changes time and memory and nothing else.

    Raises:
        PrivacyError: a value that protects nobody, or a module that mixes examples.
        ValueError: the optimiser is over other parameters than the module's, or fused.
    """

    def __init__(
        self,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch_size: float,
        noise: NoiseSource,
        max_physical_batch: int = 256,
    ) -> None:
        _check_settings(noise_multiplier, max_grad_norm, expected_batch_size)
        _check_module(module, optimiser)
        self._max_physical_batch = max(1, max_physical_batch)
        self._module = _ExampleModule(module)
        self._optimiser = NoisyOptimiser(
            optimiser,
            noise=noise,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,
        )

    def step(
        self,
        inputs: tuple[Tensor, ...],
        labels: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        patients: Tensor | None = None,
    ) -> None:
        """One step on one Poisson batch.

        Units whose gradients are not finite contribute zero; that is no error and is not told, as
        it would give away that they are there.

        Args:
            inputs: what the module is called with, each [B, ...]; B = 0 is a step of noise only.
            labels: [B].
            loss: from the module's output [B, K] and the labels to each example's own loss [B],
                class weights included, so that they are applied before clipping.
            patients: whose each example is, int64 [B] on the CPU, in any order; equal numbers are
                one patient, who is clipped as one. None: each example is a unit of its own.

        Raises:
            PrivacyError: gradients can't be told apart by example, whatever the data are; nothing
                was changed then.
        """
        # What a pass outside of a step, or a failed step, has left must not enter this one.
        self._forget()
        sizes: tuple[int, ...] = (1,) * len(labels)
        if patients is not None:
            if patients.shape != labels.shape[:1]:
                raise ValueError(
                    f"{len(labels)} examples need as many patients, not {patients.shape}"
                )
            order, sizes = by_patient(patients)
            if order is not None:
                order = order.to(labels.device)
                inputs, labels = tuple(x.index_select(0, order) for x in inputs), labels[order]
        try:
            start = 0
            for part in whole_units(sizes, self._max_physical_batch):
                units = Units(part, labels.device)
                stop = start + units.examples
                if stop - start == len(labels):
                    self._add(units, inputs, labels, loss)
                else:
                    parts = tuple(x[start:stop] for x in inputs)
                    self._add(units, parts, labels[start:stop], loss)
                start = stop
            self._optimiser.step()
        finally:
            self._forget()

    def paths(self) -> tuple[tuple[str, str], ...]:
        """Names of the layers, and how each got the gradients of units in the last step."""
        return self._module.paths()

    def _forget(self) -> None:
        self._optimiser.forget()
        self._module.forget()

    def _add(
        self,
        units: Units,
        inputs: tuple[Tensor, ...],
        labels: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        """Add the clipped gradients of these units to the sums."""
        self._module.batch.units = units
        losses = loss(self._module.forward(*inputs), labels)
        if losses.shape != labels.shape[:1]:
            raise PrivacyError(
                f"The loss must give one value per example, {list(labels.shape[:1])}, and gave "
                f"{list(losses.shape)}; without it no example can be clipped on its own."
            )
        self._module.backward(losses.sum())
        self._optimiser.add_clipped(units)

    def close(self) -> None:
        """Leave the module as it was found; its parameters keep what they learned."""
        self._forget()
        self._module.to_standard_module()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _check_settings(
    noise_multiplier: float, max_grad_norm: float, expected_batch_size: float
) -> None:
    for name, value in (
        ("noise multiplier", noise_multiplier),
        ("max-grad-norm", max_grad_norm),
        ("expected batch size", expected_batch_size),
    ):
        if not (math.isfinite(value) and value >= sys.float_info.min):
            raise PrivacyError(f"DP-SGD needs a positive, finite {name}, not {value}.")
    if not _LEAST_BOUND <= max_grad_norm <= _LARGEST_BOUND:
        raise PrivacyError(
            f"DP-SGD needs a max-grad-norm from {_LEAST_BOUND:g} to {_LARGEST_BOUND:g}, not "
            f"{max_grad_norm}: far from 1 the squares of gradients leave the range of float32 and "
            "clipping silently stops working."
        )


def _check_module(module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase) and (  # noqa: SLF001  # the common base
            not isinstance(layer, nn.modules.instancenorm._InstanceNorm)  # noqa: SLF001
            or layer.track_running_stats
        ):
            raise PrivacyError(
                f"Layer {name} ({type(layer).__name__}) mixes the examples of a batch, so none can "
                "be clipped on its own; use group norm."
            )
    trained = {id(p) for p in module.parameters() if p.requires_grad}
    stepped = {id(p) for group in optimiser.param_groups for p in group["params"]}
    if trained != stepped:
        raise ValueError("the optimiser must be over exactly the module's trainable parameters")
    if any(group.get("fused") for group in optimiser.param_groups):
        raise ValueError("a fused optimiser takes gradients in the layout of its parameters only")


class _ExampleModule(GradSampleModule):  # type: ignore[misc]  # Opacus has no types
    """Opacus' module with our faster forward on each layer that has one."""

    def __init__(self, module: nn.Module) -> None:
        self.batch = Batch()
        self._fast = [
            (layer, forward)
            for layer in module.modules()
            if (forward := patched(layer, self.batch)) is not None
        ]
        layers = {layer for layer, _ in self._fast}
        self._is_fast = layers.__contains__
        try:
            super().__init__(module, loss_reduction="sum")
        except NotImplementedError as error:
            raise PrivacyError(
                f"Opacus cannot tell the examples of a batch apart in this model: {error}"
            ) from error
        self._hooked = list(self.iterate_submodules(module))
        noted = {
            p for layer in module.modules() if type(layer) is nn.Linear for p in layer.parameters()
        }
        self._others: list[Tensor] = [
            p for p in module.parameters() if p.requires_grad and p not in noted
        ]
        for layer, forward in self._fast:
            layer.forward = forward

    def iterate_submodules(self, module: nn.Module) -> Iterable[nn.Module]:
        """The layers that Opacus' own hooks serve."""
        return (m for m in super().iterate_submodules(module) if not self._is_fast(m))

    def remove_hooks(self) -> None:
        """Take our forwards, Opacus' hooks and what they left at layers away."""
        for layer, _ in self._fast:
            vars(layer).pop("forward", None)
        super().remove_hooks()
        for p in self._module.parameters():
            vars(p).pop("summed_grad", None)

    def backward(self, total: Tensor) -> None:
        """Leave gradients of units at every parameter, from the sum of the batch's losses."""
        if not self._hooked:
            backward(self.batch, total, self._others)
            return
        with warnings.catch_warnings():
            # Opacus' hook on a first layer whose input needs no gradient; it works all the same.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            backward(self.batch, total, self._others)

    def paths(self) -> tuple[tuple[str, str], ...]:
        """See `DpSgd.paths`."""
        found = self.batch.paths | dict.fromkeys(self._hooked, "Opacus' hooks")
        return tuple(
            (name, found[layer]) for name, layer in self._module.named_modules() if layer in found
        )

    def forget(self) -> None:
        """Drop what Opacus' hooks keep between forward and backward."""
        self.batch.forget()
        for layer in self._hooked:
            vars(layer).pop("activations", None)
            vars(layer).pop("max_batch_len", None)
            for p in layer.parameters():
                vars(p).pop("_current_grad_sample", None)
                p._forward_counter = 0  # type: ignore[attr-defined]  # noqa: SLF001  # Opacus' own
