"""The U-Net: an answer for each pixel, without batch norm, with gradients by example."""

import pytest
import torch
from clipped_by_hand import require_clipped_by_hand
from torch import nn

from wardround_shared.errors import StudyError
from wardround_shared.models import build_model
from wardround_shared.study import Cnn, UNet
from wardround_shared.tasks import Localisation, Segmentation


def test_it_answers_for_each_pixel():
    model = build_model(UNet(name="unet", width=8), ((3, 48, 32),), 4, "pixel")
    assert model(torch.randn(2, 3, 48, 32)).shape == (2, 4, 48, 32)
    kinds = {type(part) for part in model.modules()}
    assert nn.GroupNorm in kinds
    assert not any(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds)


def test_no_example_sees_another():
    model = build_model(UNet(name="unet", width=8), ((1, 32, 32),), 2, "pixel").eval()
    images = torch.randn(3, 1, 32, 32)
    changed = images.clone()
    changed[1] += 1.0
    moved = (model(images) - model(changed)).abs().flatten(1).amax(1)
    assert moved[0] < 1e-5 < moved[1]


@pytest.mark.parametrize("shape", [(1, 40, 32), (1, 16, 16), (12, 100)])
def test_images_that_do_not_go_are_refused(shape):
    with pytest.raises(StudyError, match="unet"):
        build_model(UNet(name="unet"), (shape,), 2, "pixel")


def test_who_answers_for_what():
    with pytest.raises(StudyError, match="cnn does not answer for each pixel"):
        build_model(Cnn(name="cnn"), ((1, 32, 32),), 2, "pixel")
    with pytest.raises(StudyError, match="unet does not answer for each example"):
        build_model(UNet(name="unet"), ((1, 32, 32),), 2)


@pytest.mark.parametrize(
    ("task", "targets"),
    [
        (Segmentation(("a", "b")), torch.randint(0, 2, (3, 32, 32), dtype=torch.uint8)),
        (
            Localisation(most=1),
            torch.tensor([[[0.5, 0.3, 0.1]], [[0.1, 0.9, 0.2]], [[torch.nan] * 3]]),
        ),
    ],
    ids=["segmentation", "localisation"],
)
def test_the_gradient_of_each_example_is_clipped_by_itself(task, targets):
    torch.manual_seed(1)
    network = build_model(UNet(name="unet", width=4), ((1, 32, 32),), task.outputs, "pixel")
    images = torch.randn(3, 1, 32, 32).double()
    require_clipped_by_hand(task.headed(network), images, targets, task)
