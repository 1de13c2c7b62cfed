"""A run that starts from weights in a local file: of an earlier run, or of the same network.

The file is read once, when the run is asked for, and its arrays are kept in the run folder. They
are taken by name and shape; what does not fit, as the last layer of other classes, starts fresh.
Files of torchvision's networks fit those of the same name here.
"""

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from torch import Tensor, nn

from wardround_server.run_folder import INITIAL, INITIAL_SAID, METADATA, MODEL, RunFolder
from wardround_shared.errors import RunError

Weights = Mapping[str, NDArray[np.float32]]

_FIRST = "network."
"""Before the names of a network that our model has from elsewhere."""

# In files of other programs the arrays stand under one of these, or have this before their names.
_NESTED = ("state_dict", "model_state_dict", "model")
_PARALLEL = "module."
_DENSE_LAYER = re.compile(r"(denselayer\d+\.)(?=norm|conv)")


def read_weights(file: Path) -> tuple[Weights, dict[str, str]]:
    """The arrays of a safetensors file, or of a `state_dict` that torch has saved; and its origin.

    Nothing in the file is executed. Both go into the run folder as `INITIAL`. Instead of a file it
    may be the folder of a finished run.

    Raises:
        RunError: it cannot be read, is neither, or holds numbers that are none.
    """
    if file.is_dir():
        file /= MODEL
    if not file.is_file():
        raise RunError(f"{file}: there is no such file; name one with weights, or a finished run.")
    try:
        arrays = _safetensors(file) if file.suffix == ".safetensors" else _torch(file)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"{file}: these weights cannot be read ({reason}).") from error
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise RunError(f"{file}: {name} has values that are not finite; take another file.")
    if not arrays:
        raise RunError(f"{file}: there are no weights in this file; take another one.")
    return arrays, {"file": file.name, "sha256": sha256(file.read_bytes()).hexdigest()}


def start_from_(module: nn.Module, folder: RunFolder) -> None:
    """Set the parameters that the run folder has weights for, and note which in `INITIAL_SAID`.

    Raises:
        RunError: there are weights, and none of them fits the study's model.
        RunFolderError: the note cannot be written.
    """
    file = folder.path / INITIAL
    if not file.is_file():
        return
    with safe_open(file, framework="numpy") as opened:
        origin = json.loads(opened.metadata()[METADATA])
        weights = {_our_name(key): opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    taken, fresh = 0, []
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            found = _fitting(weights, name, tuple(parameter.shape))
            if found is None:
                fresh.append(name)
            else:
                parameter.copy_(torch.from_numpy(found))
                taken += 1
    if not taken:
        raise RunError(
            f"The weights of {origin['file']}, from which the run is to start, fit no array of the "
            "study's model; take a file of the same network, or none."
        )
    folder.write_json(INITIAL_SAID, origin | {"taken": taken, "fresh": fresh})


def initial_said(folder: Path) -> dict[str, Any] | None:
    """What the run in this folder has started from, for its summary; None: from nothing.

    `file` and `sha256` of the weights, how many arrays were `taken`, and the names of those that
    were `fresh`.
    """
    try:
        said: dict[str, Any] = json.loads((folder / INITIAL_SAID).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return said


def _safetensors(file: Path) -> dict[str, NDArray[np.float32]]:
    try:
        arrays = load_file(file)
    except (KeyError, TypeError) as error:  # a number format that numpy has not
        raise RunError(f"{file}: save these weights as float32 first ({error}).") from error
    return {
        name: array.astype(np.float32)
        for name, array in arrays.items()
        if np.issubdtype(array.dtype, np.floating)
    }


def _torch(file: Path) -> dict[str, NDArray[np.float32]]:
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise RunError(
            f"{file}: this is neither a safetensors file nor a state_dict that torch has saved."
        ) from error
    for nested in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(nested), Mapping):
            content = content[nested]
    if not isinstance(content, Mapping):
        raise RunError(f"{file}: there are no named arrays in this file; save a state_dict.")
    return {
        str(name): value.float().numpy()
        for name, value in content.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def _our_name(name: str) -> str:
    """The name that an array of another program has here."""
    return _DENSE_LAYER.sub(r"\1layers.", name.removeprefix(_PARALLEL))


def _fitting(weights: Weights, name: str, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """The array of that name in that shape; None: there is none.

    A first convolution over three colours is summed where images are grey: what it makes of a grey
    picture stays the same.
    """
    array = weights.get(name, weights.get(name.removeprefix(_FIRST)))
    if array is None:
        return None
    if array.ndim == 4 and array.shape[1] == 3 and shape == (array.shape[0], 1, *array.shape[2:]):
        array = array.sum(axis=1, keepdims=True)
    return array if array.shape == shape else None
