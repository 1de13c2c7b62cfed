"""What may be varied, and one draw of it.

A space is a TOML file with one table, `[space]`, whose keys are keys of the study::

    [space]
    "training.learning-rate" = { low = 0.01, high = 1.0, log = true }
    "training.batch-size" = { choices = [16, 32, 64] }
"""

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from wardround_shared.errors import StudyError
from wardround_shared.study import Study
from wardround_shared.study.section import Section

Drawn = dict[str, Any]
"""Key of the study -> value."""


class Range(Section):
    """A number between two others; with `log`, its logarithm is drawn evenly."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _a_range(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low has to be below high, and above 0 with log")
        return self

    def draw(self, random: np.random.Generator) -> float:
        """One number, to three digits: more would only look exact."""
        if self.log:
            value = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = random.uniform(self.low, self.high)
        return float(f"{value:.3g}")


class Choices(Section):
    """One value among several, each as likely."""

    choices: tuple[Any, ...] = Field(min_length=1)

    def draw(self, random: np.random.Generator) -> Any:
        """One of them."""
        return self.choices[int(random.integers(len(self.choices)))]


_SPACE: TypeAdapter[dict[str, Range | Choices]] = TypeAdapter(dict[str, Range | Choices])


@dataclass(frozen=True)
class Space:
    """Keys of a study, and what each is drawn from."""

    keys: Mapping[str, Range | Choices]

    def draw(self, random: np.random.Generator) -> Drawn:
        """One point."""
        return {key: self.keys[key].draw(random) for key in sorted(self.keys)}


def read_space(file: Path) -> Space:
    """Read a space from its file.

    Raises:
        StudyError: it cannot be read, or is no space.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StudyError(f"{file}: the search space cannot be read ({error}).") from error
    if set(content) != {"space"} or not content["space"]:
        raise StudyError(f"{file}: a search space has one table, [space], with at least one key.")
    flat = _flat(content["space"])
    try:
        return Space(_SPACE.validate_python(flat))
    except ValidationError as error:
        key = error.errors()[0]["loc"][0]
        raise StudyError(
            f"{file}: space.{key}: {json.dumps(flat[str(key)], default=str)[:80]} is neither "
            "{ low = ..., high = ..., log = ... } with low below high nor { choices = [...] }."
        ) from error


def default_space(study: Study) -> Space:
    """What is worth varying first, around what the study says."""
    training = study.training
    rate, batch, rounds = training.learning_rate, training.batch_size, training.rounds
    keys: dict[str, Range | Choices] = {
        "training.learning-rate": Range(low=rate / 10, high=rate * 10, log=True),
        "training.batch-size": _some(max(1, batch // 2), batch, 2 * batch),
        "training.weight-decay": _some(0.0, 1e-4, 1e-3, 1e-2, training.weight_decay),
        "training.rounds": _some(max(1, rounds // 2), rounds),
    }
    if study.privacy.private:
        norm = study.privacy.max_grad_norm
        keys["privacy.max-grad-norm"] = Range(low=norm / 4, high=norm * 4, log=True)
    return Space(keys | _of_model(study))


def _of_model(study: Study) -> dict[str, Range | Choices]:
    """Half and twice the size of the model, where it has one."""
    width, hidden = (getattr(study.model, name, None) for name in ("width", "hidden"))
    if isinstance(width, int):
        return {"model.width": _some(max(4, width // 2 // 4 * 4), width, 2 * width)}
    if isinstance(hidden, int):
        return {"model.hidden": _some(max(1, hidden // 2), hidden, 2 * hidden)}
    if isinstance(hidden, tuple):
        return {"model.hidden": _some([], [16], [32], list(hidden))}
    return {}


def _some(*choices: Any) -> Choices:
    """Each of them once, in order."""
    return Choices(choices=tuple(one for n, one in enumerate(choices) if one not in choices[:n]))


def _flat(content: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Keys with dots, however the file nests them: `[space.training]` is as good as quotes."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat
