"""Where static features (age, RR intervals) join a model.

B = examples in the batch, D = features of the model, S = static features.
"""

import torch
from torch import Tensor

from wardround_shared.errors import StudyError


def static_size(shapes: tuple[tuple[int, ...], ...]) -> int:
    """S, or 0 without a static part.

    Raises:
        StudyError: there are more parts than main and static.
    """
    if len(shapes) == 1:
        return 0
    if len(shapes) == 2 and len(shapes[1]) == 1:
        return shapes[1][0]
    raise StudyError(f"model: no model takes examples of the shapes {shapes}.")


def with_static(features: Tensor, static: Tensor | None, size: int) -> Tensor:
    """[B, D] and [B, S] -> [B, D + S].

    Raises:
        ValueError: there are static features and the model has no place for them, or the reverse.
    """
    given = 0 if static is None else static.shape[-1]
    if given != size:
        raise ValueError(f"the model takes {size} static features and was given {given}")
    return features if static is None else torch.cat([features, static], dim=1)
