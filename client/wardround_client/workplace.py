"""What the sites that one process serves have in common: the study, the device, the network."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from wardround_shared.errors import ProtocolError
from wardround_shared.messages import (
    GlobalModel,
)
from wardround_shared.models import parameter_count, unflatten_
from wardround_shared.network import build_network
from wardround_shared.preprocessing import Recipe
from wardround_shared.privacy.noise import NoiseSource
from wardround_shared.study import Study


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What the sites that one process serves have in common.

    Attributes:
        seed: of the shuffling; noise never depends on it.
        noise_of: where DP noise and Poisson sampling come from, for a site and round.
        repeatable: whether the rounding of secure aggregation follows the seed as well; for
            simulations, whose result can then be repeated to the last bit.
    """

    study: Study
    device: torch.device
    seed: int
    noise_of: Callable[[str, int], NoiseSource]
    repeatable: bool = False


class Models:
    """The module of the last request, kept so that a worker builds it once."""

    def __init__(self, workplace: Workplace) -> None:
        self._workplace = workplace
        self._recipe = Recipe(workplace.study)
        self._built: dict[tuple[tuple[int, ...], ...], nn.Module] = {}

    def load(self, shapes: tuple[tuple[int, ...], ...], model: GlobalModel) -> nn.Module:
        """The study's module holding the received parameters.

        Args:
            shapes: of one decoded example, per part.
            model: as received.
        """
        study = self._workplace.study
        module = self._built.get(shapes)
        if module is None:
            module = build_network(study, self._recipe.output_shapes(shapes)).to(
                self._workplace.device
            )
            self._built[shapes] = module
        received = torch.from_numpy(model.parameters.copy()).to(self._workplace.device)
        try:
            unflatten_(module, received)
        except ValueError as error:
            raise ProtocolError(
                f"The received model has {received.numel()} parameters, the study's model "
                f"{parameter_count(module)}."
            ) from error
        return module
