"""Which parts of one input speak for an answer, by captum.

Grad-CAM (Selvaraju et al. 2017): where the last convolution finds what speaks for the answer, as
coarse as that layer. Integrated gradients (Sundararajan et al. 2017): each value's share in by
how much the answer differs from that of an input of zeros, the training mean once standardised.

C = channels, H, W = pixels, T = samples in time.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wardround_shared.errors import RunError

_STEPS = 64


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """What speaks for one output of one input.

    Attributes:
        gradients: integrated gradients of the main part [C, ...], in units of the output.
        heat: Grad-CAM [H, W], at least 0; None without a convolution over an image.
        beside: share of the integrated gradients, without sign, that static columns have.
        missing: how far the integrated gradients are from adding up to the difference in output,
            over that difference; near 0 if there were enough steps.
    """

    gradients: NDArray[np.float64]
    heat: NDArray[np.float64] | None
    beside: float
    missing: float


def require_captum() -> None:
    """Refuse before anything is read.

    Raises:
        RunError: captum is not installed.
    """
    if find_spec("captum") is None:
        raise RunError(
            "wardround explain: captum is not installed here; install wardround with its extra "
            "explain (pip install 'wardround[explain]')."
        )


def attribute(module: nn.Module, parts: tuple[Tensor, ...], output: int) -> Attribution:
    """Explain output number `output` of one prepared input, parts [1, ...] each."""
    from captum.attr import IntegratedGradients  # noqa: PLC0415 - of an extra

    baselines = tuple(torch.zeros_like(part) for part in parts)
    found: Any = IntegratedGradients(module).attribute(
        parts, baselines=baselines, target=output, n_steps=_STEPS
    )
    with torch.inference_mode():
        difference = float((module(*parts) - module(*baselines))[0, output])
    total = float(sum(one.sum() for one in found))
    main, *static = (float(one.abs().sum()) for one in found)
    return Attribution(
        gradients=found[0][0].double().numpy(),
        heat=_heat(module, parts, output),
        beside=sum(static) / max(main + sum(static), 1e-12),
        missing=abs(total - difference) / max(abs(difference), 1e-6),
    )


def _heat(module: nn.Module, parts: tuple[Tensor, ...], output: int) -> NDArray[np.float64] | None:
    from captum.attr import LayerAttribution, LayerGradCam  # noqa: PLC0415 - of an extra

    last = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    if not last or parts[0].ndim != 4:
        return None
    coarse: Any = LayerGradCam(module, last[-1]).attribute(
        parts, target=output, relu_attributions=True
    )
    size = tuple(parts[0].shape[-2:])
    heat: Any = LayerAttribution.interpolate(coarse, size, interpolate_mode="bilinear")
    mean: NDArray[np.float64] = heat[0].mean(dim=0).detach().double().numpy()
    return mean
