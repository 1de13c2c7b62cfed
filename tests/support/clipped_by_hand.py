"""DP-SGD against gradients that are taken one example at a time."""

import copy

import torch
from torch import Tensor, nn

from wardround_shared.privacy.dp_sgd import DpSgd
from wardround_shared.privacy.noise import InjectedNoise
from wardround_shared.tasks import Task


def require_clipped_by_hand(
    module: nn.Module, inputs: Tensor, targets: Tensor, task: Task, *, tolerance: float = 1e-5
) -> None:
    """A step without noise is the sum of each example's own gradient, clipped by itself.

    In float64: in float32 the sign of a rectifier's input near 0 depends on the batch's size.
    """
    module = module.double()
    alone = copy.deepcopy(module)
    gradients = []
    for example in range(len(inputs)):
        alone.zero_grad()
        one = slice(example, example + 1)
        task.loss(alone(inputs[one]), targets[one], None).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in alone.parameters()]))
    # One is clipped, one is not.
    bound = float(sorted(g.norm() for g in gradients)[len(gradients) // 2])
    truth = sum(g * min(1.0, bound / float(g.norm())) for g in gradients)
    before = torch.cat([p.detach().flatten() for p in module.parameters()])
    with DpSgd(
        module,
        torch.optim.SGD(module.parameters(), lr=1.0),
        noise_multiplier=1e-12,
        max_grad_norm=bound,
        expected_batch_size=len(inputs),
        noise=InjectedNoise(0),
    ) as private:
        private.step((inputs,), targets, lambda out, y: task.loss(out, y, None), None)
    after = torch.cat([p.detach().flatten() for p in module.parameters()])
    found = len(inputs) * (before - after)
    assert (found - truth).norm() <= tolerance * truth.norm()
