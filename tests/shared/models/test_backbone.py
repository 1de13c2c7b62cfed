"""The deep networks for images."""

import copy

import pytest
import torch
from torch import nn

from wardround_shared.models import build_model, parameter_count
from wardround_shared.study import Backbone

# torchvision's counts for 3 channels and 1000 classes; group norm has as many as batch norm.
PUBLISHED = {"resnet18": 11_689_512, "resnet50": 25_557_032, "densenet121": 7_978_856}


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_the_published_network_with_another_norm(name):
    module = build_model(Backbone(name=name), ((3, 64, 64),), 1000)
    assert parameter_count(module) == PUBLISHED[name]
    kinds = {type(part) for part in module.modules()}
    assert nn.GroupNorm in kinds
    assert not any(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds)
    # All that a model is travels: there are no running means.
    assert set(module.state_dict()) == {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_gradient_of_each_example_is_clipped_by_itself(name):
    """In float64: in float32 the sign of a rectifier's input near 0 depends on the batch's size."""
    from wardround_shared.privacy.dp_sgd import DpSgd
    from wardround_shared.privacy.noise import InjectedNoise

    torch.manual_seed(1)
    module = build_model(Backbone(name=name), ((1, 32, 32),), 3).double()
    images, labels = torch.randn(3, 1, 32, 32).double(), torch.tensor([0, 2, 1])
    alone = copy.deepcopy(module)
    gradients = []
    for example in range(3):
        alone.zero_grad()
        one = slice(example, example + 1)
        nn.functional.cross_entropy(alone(images[one]), labels[one]).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in alone.parameters()]))
    bound = float(sorted(g.norm() for g in gradients)[1])  # one is clipped, one is not
    truth = sum(g * min(1.0, bound / float(g.norm())) for g in gradients)

    before = torch.cat([p.detach().flatten() for p in module.parameters()])
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    with DpSgd(
        module,
        optimiser,
        noise_multiplier=1e-12,
        max_grad_norm=bound,
        expected_batch_size=3,
        noise=InjectedNoise(0),
    ) as private:
        loss = nn.functional.cross_entropy
        private.step((images,), labels, lambda out, y: loss(out, y, reduction="none"), None)
    after = torch.cat([p.detach().flatten() for p in module.parameters()])
    found = 3 * (before - after)
    assert (found - truth).norm() <= 1e-5 * truth.norm()
