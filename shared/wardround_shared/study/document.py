"""The study as a whole."""

import hashlib
import json
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from wardround_shared.study.data import Data
from wardround_shared.study.learning import Aggregation, Privacy, Simulation, Training
from wardround_shared.study.models import Model
from wardround_shared.study.preprocessing import Preprocessing
from wardround_shared.study.section import Section

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
Task = Literal[
    "tabular-classification", "image-classification", "signal-classification", "text-classification"
]


class Identity(Section):
    """`[study]`: name, task and the classes in the order of the model's outputs.

    With two classes the second one is the positive class of sensitivity, specificity and AUROC.
    """

    name: Name
    task: Task
    classes: tuple[str, ...] = Field(min_length=2)
    description: str = ""

    @model_validator(mode="after")
    def _classes_differ(self) -> "Identity":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must differ from one another")
        return self


class Study(Section):
    """One study, frozen. `study_id` is the SHA-256 of its canonical form."""

    study: Identity
    data: Data
    preprocessing: Preprocessing = Preprocessing()
    model: Model
    training: Training
    privacy: Privacy
    aggregation: Aggregation = Aggregation()
    simulation: Simulation = Simulation()

    @cached_property
    def study_id(self) -> str:
        """SHA-256 of the canonical form (JSON, sorted keys, defaults written out), in hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def canonical(self) -> str:
        """The study as JSON with sorted keys and every default written out."""
        return json.dumps(
            self.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":")
        )
