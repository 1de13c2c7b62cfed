"""Name -> model, one family a file. No BatchNorm: it mixes examples, which DP forbids.

Every model is called as `model(main)` or `model(main, static)` and returns logits [B, K], or
[B, T, K] where it answers for each step, or [B, K, H, W] for each pixel; B = examples in the
batch, T = steps, H, W = pixels, K = outputs.
Parameters are visited in the order of `module.parameters()`.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from wardround_shared.errors import StudyError
from wardround_shared.models.cnn import build_cnn
from wardround_shared.models.cnn1d import build_cnn1d
from wardround_shared.models.dcgan import build_dcgan
from wardround_shared.models.mlp import build_mlp
from wardround_shared.models.recurrent import build_recurrent
from wardround_shared.models.text import build_bilstm
from wardround_shared.study import (
    Backbone,
    Bilstm,
    Cnn,
    Cnn1d,
    CnnLstm,
    DcGan,
    Gru,
    Lstm,
    Mlp,
    Model,
    UNet,
)

Answers = Literal["example", "step", "pixel"]

__all__ = ["Answers", "build_model", "flatten", "parameter_count", "unflatten_"]


def build_model(  # noqa: PLR0911 - one for each family
    model: Model,
    shapes: tuple[tuple[int, ...], ...],
    outputs: int,
    answers: Answers = "example",
) -> nn.Module:
    """Build a study's model, initialised from torch's global random state.

    Args:
        model: the study's model section.
        shapes: of one example after preprocessing: main, and static if there is one.
        outputs: number of classes K.
        answers: whether the model answers once for an example, or for each step or pixel of it.

    Raises:
        StudyError: the model cannot take examples of these shapes, or cannot answer so.
    """
    if answers == "step":
        if not isinstance(model, Lstm | Gru) or model.front:
            raise StudyError(
                f"model.name: {model.name} answers once for an example, and this task asks for "
                "each step; take lstm or gru, without a front end."
            )
        return build_recurrent(model, shapes, outputs, per_step=True)
    if isinstance(model, UNet) != (answers == "pixel"):
        raise StudyError(
            f"model.name: {model.name} does not answer for each {answers}, as this task asks; take "
            + ("unet." if answers == "pixel" else "another model.")
        )
    match model:
        case Mlp():
            return build_mlp(model, shapes, outputs)
        case Cnn():
            return build_cnn(model, shapes, outputs)
        case Cnn1d():
            return build_cnn1d(model, shapes, outputs)
        case Lstm() | Gru() | CnnLstm():
            return build_recurrent(model, shapes, outputs)
        case UNet():
            from wardround_shared.models.unet import build_unet  # noqa: PLC0415 - slow import

            return build_unet(model, shapes, outputs)
        case DcGan():
            return build_dcgan(model, shapes, outputs)
        case Bilstm():
            return build_bilstm(model, shapes, outputs)
        case Backbone():
            # MONAI takes seconds to import.
            from wardround_shared.models.backbone import build_backbone  # noqa: PLC0415

            return build_backbone(model, shapes, outputs)


def parameter_count(module: nn.Module) -> int:
    """Number P of trained numbers."""
    return sum(parameter.numel() for parameter in module.parameters())


def flatten(module: nn.Module) -> Tensor:
    """All parameters as one new vector, float32 [P], on the module's device."""
    with torch.no_grad():
        return torch.cat([p.reshape(-1).float() for p in module.parameters()])


def unflatten_(module: nn.Module, vector: Tensor) -> None:
    """Set all parameters, in place, from a vector [P] as `flatten` makes it.

    Raises:
        ValueError: the vector has another length.
    """
    # Once: walking through a module takes longer than copying a small one.
    parameters = list(module.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    if vector.shape != (sum(sizes),):
        raise ValueError(
            f"a vector of shape {tuple(vector.shape)} does not fit a model of "
            f"{sum(sizes)} parameters"
        )
    with torch.no_grad():
        for parameter, values in zip(parameters, vector.split(sizes), strict=True):
            parameter.copy_(values.view_as(parameter))
