"""The deep networks for images."""

import pytest
import torch
from clipped_by_hand import require_clipped_by_hand
from torch import nn

from wardround_shared.models import build_model, parameter_count
from wardround_shared.study import Backbone
from wardround_shared.tasks import Classification

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
    torch.manual_seed(1)
    module = build_model(Backbone(name=name), ((1, 32, 32),), 3)
    images, labels = torch.randn(3, 1, 32, 32).double(), torch.tensor([0, 2, 1])
    require_clipped_by_hand(module, images, labels, Classification(("a", "b", "c")))
