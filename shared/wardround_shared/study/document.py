"""The study as a whole."""

import hashlib
import json
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from wardround_shared.study.data import Data
from wardround_shared.study.learning import Aggregation, Privacy, Simulation, Training
from wardround_shared.study.models import Model
from wardround_shared.study.personal import Personal
from wardround_shared.study.preprocessing import Preprocessing
from wardround_shared.study.section import Section

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
Task = Literal[
    "tabular-classification",
    "image-classification",
    "signal-classification",
    "record-classification",
    "text-classification",
    "image-multilabel-classification",
    "signal-multilabel-classification",
    "tabular-survival",
    "sequence-labelling",
    "image-segmentation",
    "image-localisation",
    "image-generation",
]
Kind = Literal[
    "classification",
    "multilabel-classification",
    "survival",
    "labelling",
    "segmentation",
    "localisation",
    "generation",
]


class Identity(Section):
    """`[study]`: name, task and the classes in the order of the model's outputs.

    With two classes the second one is the positive class of sensitivity, specificity and AUROC.
    A multilabel classification has any number of findings as its classes, survival has none, and
    labelling gives every step of a sequence one class. In segmentation the first class is what is
    around the others; localisation has one class, the lesion.
    """

    name: Name
    task: Task
    classes: tuple[str, ...] = ()
    description: str = ""

    @property
    def modality(self) -> str:
        """What the examples are, the first word of the task: tabular, image, signal, ..."""
        return self.task.partition("-")[0]

    @property
    def kind(self) -> Kind:
        """What is told of an example, the other words of the task."""
        kind: Kind = self.task.partition("-")[2]  # type: ignore[assignment]  # of a Task
        return kind

    @model_validator(mode="after")
    def _classes_fit(self) -> "Identity":
        two = {"classification", "labelling", "segmentation"}
        least = 2 if self.kind in two else 0 if self.kind == "survival" else 1
        if len(self.classes) < least:
            raise ValueError(f"task = {self.task!r} needs at least {least} classes")
        if self.kind == "localisation" and len(self.classes) > 1:
            raise ValueError(f"task = {self.task!r} has one class, what is looked for")
        if self.kind == "survival" and self.classes:
            raise ValueError(f"task = {self.task!r} has no classes; leave them out")
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
    personal: Personal = Personal()
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
