"""`wardround bench dp`: a training step with and without DP-SGD, beside the modes of Opacus.

One thread, as a simulated site trains.
"""

import gc
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleExpandedWeights
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
    GradSampleModuleFastGradientClipping,
)
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from wardround_shared.privacy import DpSgd, SystemNoise
from wardround_simulations.benchmarks.dp_models import (
    BATCH,
    EXAMPLES_PER_PATIENT,
    SUBJECTS,
    Subject,
    patients,
    with_opacus_layers,
)
from wardround_simulations.threads import one_torch_thread

Step = Callable[[], object]

SECONDS = 8.0
LEAST_REPEATS = 5

_NOISE_MULTIPLIER = 1.0
_MAX_GRAD_NORM = 1.0


def bench_dp(
    *, subjects: tuple[Subject, ...] = SUBJECTS, seconds: float = SECONDS
) -> dict[str, Any]:
    """One row for each model; seconds are medians over steps taken in turns.

    - `plain_s`: a step of SGD with momentum as a study without DP takes it, fused.
    - `record_s`, `patient_s`: `DpSgd` with each example and with each patient as the unit.
    - `hooks_s`, `ghost_s`, `ew_s`: Opacus per record, with hooks (the default), ghost clipping and
      expanded weights; `None` where it cannot, with the reason under `notes`. Its LSTM is DPLSTM.
    - `patient_over_plain`: median of the ratios of steps that were next to each other.
    - `peak_mb`, `hooks_peak_mb`: most that tensors hold at a time during a step (`patient_s`,
      `hooks_s`) above what they hold before it, by PyTorch's record of allocations.
    - `paths`: how each layer's gradients were got in the step of `patient_s`.

    Args:
        subjects: models to measure.
        seconds: for each model; at least `LEAST_REPEATS` steps are taken, whatever they last.
    """
    with one_torch_thread(), warnings.catch_warnings():
        # Opacus' hooks complain of first layers, PyTorch of the layout of Opacus' gradients.
        warnings.simplefilter("ignore")
        rows = [_row(subject, seconds) for subject in subjects]
    return {
        "rows": rows,
        "batch": BATCH,
        "examples_per_patient": EXAMPLES_PER_PATIENT,
        "threads": 1,
    }


def _row(subject: Subject, seconds: float) -> dict[str, Any]:
    patient, paths = _ours(subject, patients())
    steps: dict[str, Step] = {
        "plain": _plain(subject),
        "record": _ours(subject, None)[0],
        "patient": patient,
    }
    notes = []
    for name, make in (("hooks", _hooks), ("ghost", _ghost), ("ew", _expanded_weights)):
        try:
            steps[name] = make(subject)
            steps[name]()
        except (NotImplementedError, RuntimeError, TypeError, AttributeError) as error:
            steps.pop(name, None)
            notes.append(f"Opacus {name}: {type(error).__name__}: {error}")
    times = _in_turns(steps, seconds)
    figures: dict[str, float | None] = {
        f"{name}_s": statistics.median(times[name]) if name in times else None
        for name in ("plain", "record", "patient", "hooks", "ghost", "ew")
    }
    ratios = [a / b for a, b in zip(times["patient"], times["plain"], strict=True)]
    return {
        "model": subject.name,
        **figures,
        "patient_over_plain": statistics.median(ratios),
        "peak_mb": _peak_mb(patient),
        "hooks_peak_mb": _peak_mb(steps["hooks"]) if "hooks" in steps else None,
        "repeats": len(ratios),
        "paths": dict(paths()),
        "notes": notes,
    }


def _in_turns(steps: dict[str, Step], seconds: float) -> dict[str, list[float]]:
    """Seconds of each step, taken one after the other, again and again."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    end = time.perf_counter() + seconds
    while len(times["plain"]) < LEAST_REPEATS or time.perf_counter() < end:
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - started)
    return times


def _peak_mb(step: Step) -> float:
    """Megabytes that tensors take at most during a step, above what they take before it."""
    step()
    gc.collect()
    with (
        _no_word_from_the_profiler(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record,
    ):
        step()
    assert record.profiler is not None  # it has run
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


@contextmanager
def _no_word_from_the_profiler() -> Iterator[None]:
    """It tells standard error that tensors from before are not in its record, as we want it."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# --- what is measured ------------------------------------------------------------------------


def _plain(subject: Subject) -> Step:
    module = subject.model()
    optimiser = _sgd(module, fused=True)
    return partial(_step, module, optimiser, functional.cross_entropy, *subject.batch())


def _ours(subject: Subject, units: Tensor | None) -> tuple[Step, Callable[[], Any]]:
    """A step of `DpSgd`, and what tells the paths of the last one."""
    module = subject.model()
    optimiser = _sgd(module)
    private = DpSgd(
        module,
        optimiser,
        noise_multiplier=_NOISE_MULTIPLIER,
        max_grad_norm=_MAX_GRAD_NORM,
        expected_batch_size=BATCH if units is None else len(units.unique()),
        noise=SystemNoise(),
    )
    inputs, labels = subject.batch()
    loss = partial(functional.cross_entropy, reduction="none")
    return partial(private.step, (inputs,), labels, loss, units), private.paths


def _hooks(subject: Subject, wrapper: type[nn.Module] = GradSampleModule) -> Step:
    module = wrapper(with_opacus_layers(subject.model()))
    optimiser = _opacus_optimiser(module, DPOptimizer)
    return partial(_step, module, optimiser, functional.cross_entropy, *subject.batch())


def _expanded_weights(subject: Subject) -> Step:
    return _hooks(subject, GradSampleModuleExpandedWeights)


def _ghost(subject: Subject) -> Step:
    module = GradSampleModuleFastGradientClipping(
        with_opacus_layers(subject.model()), max_grad_norm=_MAX_GRAD_NORM, use_ghost_clipping=True
    )
    optimiser = _opacus_optimiser(module, DPOptimizerFastGradientClipping)
    loss = DPLossFastGradientClipping(module, optimiser, nn.CrossEntropyLoss(), "mean")
    return partial(_step, module, optimiser, loss, *subject.batch())


def _opacus_optimiser(module: nn.Module, wrapper: type[DPOptimizer]) -> DPOptimizer:
    return wrapper(
        _sgd(module),
        noise_multiplier=_NOISE_MULTIPLIER,
        max_grad_norm=_MAX_GRAD_NORM,
        expected_batch_size=BATCH,
    )


def _sgd(module: nn.Module, *, fused: bool = False) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9, fused=fused)


def _step(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor], Any],
    inputs: Tensor,
    labels: Tensor,
) -> None:
    loss(module(inputs), labels).backward()
    optimiser.step()
    optimiser.zero_grad()  # at the end, so that no step's gradients count as another's memory
