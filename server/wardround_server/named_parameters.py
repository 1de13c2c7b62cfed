"""The model as one vector, and as the named arrays of a file. P = model parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from wardround_server.optimisers import Parameters
from wardround_shared.errors import RunFolderError


class NamedParameters:
    """Names and shapes of a model's parameters, in the order of the vector [P]."""

    def __init__(self, module: nn.Module) -> None:
        """Take them from a module, which is not kept."""
        self._shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        assert set(self._shapes) == set(module.state_dict())

    def split(self, parameters: Parameters) -> dict[str, NDArray[np.float32]]:
        """The named arrays: views of the vector."""
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in self._shapes.values()])
        parts = np.split(parameters, ends[:-1])
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def join(self, arrays: Mapping[str, NDArray[Any]]) -> Parameters:
        """The vector of named arrays; the inverse of `split`.

        Args:
            arrays: read one at a time; others may be among them.

        Raises:
            RunFolderError: one is missing, or is not as in this study's model.
        """
        size = sum(int(np.prod(shape, dtype=int)) for shape in self._shapes.values())
        whole: Parameters = np.empty(size, np.float32)
        for name, view in self.split(whole).items():
            array = arrays.get(name)
            if array is None or array.dtype != np.float32 or array.shape != view.shape:
                raise RunFolderError(f"A stored model has no {name} that fits this study's model.")
            view[...] = array
        return whole
