"""The slow truth: one example, or one patient, at a time through plain PyTorch."""

import copy

import pytest
import torch


def _example_gradients(module, inputs, loss):
    """Gradient of loss(module(*example)) for each example: {name: [B, *shape]}."""
    return _patient_gradients(module, inputs, loss, torch.arange(len(inputs[0])))


def _patient_gradients(module, inputs, loss, patients):
    """Gradient of loss(module(*examples), examples) for each patient: {name: [U, *shape]}."""
    module = copy.deepcopy(module)
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    rows = []
    for patient in patients.unique():
        module.zero_grad()
        theirs = patients == patient
        loss(module(*(x[theirs] for x in inputs)), theirs).backward()
        rows.append({n: p.grad.clone() for n, p in module.named_parameters() if n in names})
    return {name: torch.stack([row[name] for row in rows]) for name in names}


def _clipped_sum(gradients, bound):
    """Sum over units of gradients clipped to `bound`, by the definition: {name: [*shape]}."""
    size = len(next(iter(gradients.values())))
    norms = torch.stack(
        [
            torch.cat([g[b].flatten().double() for g in gradients.values()]).norm()
            for b in range(size)
        ]
    )
    factors = (bound / norms).clamp(max=1.0)
    return {name: torch.einsum("b,b...->...", factors, g.double()) for name, g in gradients.items()}


@pytest.fixture(scope="session")
def example_gradients():
    return _example_gradients


@pytest.fixture(scope="session")
def patient_gradients():
    return _patient_gradients


@pytest.fixture(scope="session")
def clipped_sum():
    return _clipped_sum
