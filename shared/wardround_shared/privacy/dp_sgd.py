"""DP-SGD (Abadi et al. 2016, "Deep learning with differential privacy", algorithm 1).

A step draws each example independently (Poisson sampling), clips each example's gradient over all
parameters together to max_grad_norm, sums, adds Gaussian noise of standard deviation
noise_multiplier * max_grad_norm to every coordinate of the sum, and divides by the expected batch
size. One example's presence changes the sum before noise by at most max_grad_norm; accounting.py
turns that into epsilon. The size of the drawn batch is never used: it would reveal who is in it.

Opacus is the frame: `_ExampleModule` is its GradSampleModule with faster layers (layers.py), and
`_NoisyOptimiser` its DPOptimizer with exact clipping and noise from a `NoiseSource`.

Shape letters: B = examples, K = classes, P... = shape of a parameter.
"""

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy.gradients import ExampleGradients, Full, recorded
from wardround_shared.privacy.layers import patched
from wardround_shared.privacy.noise import NoiseSource

# Float32 norms are rounded: clipping this much lower keeps the bound despite it.
_ROUNDING = 2e-6


def poisson_batches(n: int, sample_rate: float, steps: int, noise: NoiseSource) -> Iterator[Tensor]:
    """Indices of `steps` batches, int64 [B]; B varies and may be 0.

    Args:
        n: number of examples at the site.
        sample_rate: probability in (0, 1] with which each example is in each batch, independently.
        steps: number of batches.
        noise: the draws decide who takes part, so they are as secret as the noise.

    Raises:
        PrivacyError: the sample rate is no probability.
    """
    if not 0.0 < sample_rate <= 1.0:
        raise PrivacyError(f"A sample rate of {sample_rate} is no probability above 0.")
    for _ in range(steps):
        yield (noise.uniform(n) < sample_rate).nonzero().squeeze(1)


class DpSgd:
    """Differentially private steps of one local training, on a plain module and its optimiser.

    The module keeps its parameters and their order; `close` (or leaving the `with` block) takes
    everything away again that was attached to it.

    Args:
        module: in training mode, without BatchNorm; called as module(*inputs).
        optimiser: over exactly the module's trainable parameters; its own step hooks run after
            the noise is added, so they must not look at data.
        noise_multiplier: noise standard deviation over max_grad_norm; positive.
        max_grad_norm: L2 bound on one example's gradient; positive.
        expected_batch_size: sample rate times number of examples; positive.
        noise: where the noise is drawn from.
        max_physical_batch: examples that are held in memory at once; larger batches are split,
            which changes time and memory and nothing else.

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
        self._optimiser = _NoisyOptimiser(
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
    ) -> None:
        """One step on one Poisson batch.

        Args:
            inputs: what the module is called with, each [B, ...]; B = 0 is a step of noise only.
            labels: [B].
            loss: from the module's output [B, K] and the labels to each example's own loss [B],
                class weights included, so that they are applied before clipping.

        Raises:
            PrivacyError: a gradient is not finite, or can't be told apart by example; nothing was
                changed then.
        """
        # What a pass outside of a step, or a failed step, has left must not enter this one.
        self._forget()
        size = self._max_physical_batch
        parts = range(0, len(labels), size)
        try:
            if not parts:
                self._optimiser.empty_batch()
            for start in parts:
                part = slice(start, start + size)
                self._backward(tuple(x[part] for x in inputs), labels[part], loss)
                self._optimiser.signal_skip_step(do_skip=start != parts[-1])
                self._optimiser.step()
                self._optimiser.forget_examples()
        finally:
            self._forget()

    def _forget(self) -> None:
        self._optimiser.forget()
        self._module.forget()

    def _backward(
        self,
        inputs: tuple[Tensor, ...],
        labels: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        losses = loss(self._module(*inputs), labels)
        if losses.shape != labels.shape[:1]:
            raise PrivacyError(
                f"The loss must give one value per example, {list(labels.shape[:1])}, and gave "
                f"{list(losses.shape)}; without it no example can be clipped on its own."
            )
        with warnings.catch_warnings():
            # Opacus' hook on a first layer whose input needs no gradient; it works all the same.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses.sum().backward()

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
        self._fast = [(layer, f) for layer in module.modules() if (f := patched(layer))]
        layers = {layer for layer, _ in self._fast}
        self._is_fast = layers.__contains__
        try:
            super().__init__(module, loss_reduction="sum")
        except NotImplementedError as error:
            raise PrivacyError(
                f"Opacus cannot tell the examples of a batch apart in this model: {error}"
            ) from error
        self._hooked = list(self.iterate_submodules(module))
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

    def forget(self) -> None:
        """Drop what Opacus' hooks keep between forward and backward."""
        for layer in self._hooked:
            vars(layer).pop("activations", None)
            vars(layer).pop("max_batch_len", None)
            for p in layer.parameters():
                vars(p).pop("_current_grad_sample", None)
                p._forward_counter = 0  # type: ignore[attr-defined]  # noqa: SLF001  # Opacus' own


class _NoisyOptimiser(DPOptimizer):  # type: ignore[misc]  # Opacus has no types
    """Opacus' optimiser with exact clipping, our forms of gradients, and our noise."""

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        *,
        noise: NoiseSource,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch_size: float,
    ) -> None:
        super().__init__(
            optimiser,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,
            loss_reduction="sum",  # add_noise divides
        )
        self._noise = noise

    @property
    def grad_samples(self) -> list[ExampleGradients]:
        """Per-example gradients of every parameter, as gradients.py has them."""
        return [recorded(p) for p in self.params]

    def empty_batch(self) -> None:
        """A step on nobody: the sum is zero, and the noise is as large as ever."""
        for p in self.params:
            p.grad_sample = Full(p.new_zeros(0, *p.shape))
        self.step()

    def clip_and_accumulate(self) -> None:
        """Add each example's gradient, scaled to a norm of at most max_grad_norm, to the sums."""
        gradients = self.grad_samples
        norms = torch.stack([g.squared_norms() for g in gradients]).sum(dim=0).sqrt()  # [B]
        if not bool(torch.isfinite(norms).all()):
            raise PrivacyError(
                "An example's gradient is not finite and cannot be clipped; this step was not "
                "taken. Lower training.learning-rate, or look for extreme values in the data."
            )
        bound = self.max_grad_norm * (1.0 - _ROUNDING)
        factors = bound / norms.clamp_min(bound)
        for p, g in zip(self.params, gradients, strict=True):
            total = g.weighted_sum(factors)
            p.summed_grad = total if p.summed_grad is None else p.summed_grad + total

    def add_noise(self) -> None:
        """Put (sum + noise) / expected batch size where the wrapped optimiser looks for gradients.

        All parameters at once: on small models the many small operations would take the time.
        """
        parameters = self.params
        flat = torch.cat([p.summed_grad.flatten() for p in parameters])
        std = self.noise_multiplier * self.max_grad_norm
        flat += self._noise.normal((len(flat),), std, device=flat.device, dtype=flat.dtype)
        flat /= self.expected_batch_size
        for p, part in zip(
            parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True
        ):
            p.grad = part.view_as(p)

    def forget_examples(self) -> None:
        """Drop the gradients of one part of a batch, which have been added to the sums."""
        for p in self.params:
            p.grad_sample = None

    def forget(self) -> None:
        """Drop everything that was derived from examples, after a step or a failed one."""
        self._step_skip_queue.clear()
        self._is_last_step_skipped = False
        self.zero_grad(set_to_none=True)
