"""Keys that are given and have no effect: their author would believe in what never happens."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wardround_shared.study.data import (
    AnySignals,
    DicomData,
    FhirData,
    ImagesData,
    SignalsData,
    WfdbData,
    WithStatic,
)
from wardround_shared.study.document import Study
from wardround_shared.study.models import Gru, Lstm
from wardround_shared.study.personal import has_normalisation
from wardround_shared.study.preprocessing import Normalise
from wardround_shared.study.section import Section


@dataclass(frozen=True, kw_only=True)
class Idle:
    """A key without effect; `value` as the file has it."""

    key: str
    value: str
    because: str
    remedy: str


def idle_keys(study: Study) -> Iterator[Idle]:
    """Every key that is given and that the other keys make idle."""
    training = study.training
    if training.momentum and training.optimiser != "sgd":
        yield Idle(
            key="training.momentum",
            value=str(training.momentum),
            because=f'with optimiser = "{training.optimiser}"',
            remedy='write momentum = 0, or optimiser = "sgd"',
        )
    if training.local_epochs != 1 and training.local_steps is not None:
        yield Idle(
            key="training.local-epochs",
            value=str(training.local_epochs),
            because="with local-steps",
            remedy="write local-epochs = 1, or leave out local-steps",
        )
    if study.simulation.partition == "iid":
        yield from _given(
            "simulation",
            study.simulation,
            ("alpha",),
            because='with partition = "iid"',
            otherwise='write partition = "dirichlet"',
        )
    if study.study.kind != "generation":
        yield from _given(
            "training",
            training,
            ("generator",),
            because=f'with task = "{study.study.task}", which makes no images',
            otherwise='take task = "image-generation"',
        )
    if isinstance(study.model, Lstm | Gru) and not study.model.front:
        yield from _given(
            "model",
            study.model,
            ("front_kernel", "front_stride"),
            because="without a front end",
            otherwise="give front the channels of one",
        )
    if study.personal.layers == "normalisation" and not has_normalisation(study.model):
        yield Idle(
            key="personal.layers",
            value='"normalisation"',
            because=f'with model = "{study.model.name}", which has no normalisation layer here',
            remedy="leave it out, or take a model that has some",
        )
    if not study.personal.fine_tune_epochs:
        yield from _given(
            "personal",
            study.personal,
            ("fine_tune_learning_rate",),
            because="without fine-tuning",
            otherwise="give fine-tune-epochs a number",
        )
    if not isinstance(study.data, DicomData):
        yield from _given(
            "simulation",
            study.simulation,
            ("allow_burned_in_annotation",),
            because="on anything but DICOM images",
            otherwise='take source = "dicom"',
        )
    yield from _idle_in_data(study)


def _idle_in_data(study: Study) -> Iterator[Idle]:
    data = study.data
    if isinstance(data, WfdbData) and data.annotator is None:
        yield from _given(
            "data",
            data,
            ("before", "after"),
            because="without an annotator",
            otherwise="name the annotator whose beats are meant",
        )
        yield from _given(
            "data",
            data,
            ("patient_median",),
            because="without an annotator",
            otherwise="name the annotator whose beats are meant",
        )
    if isinstance(data, WfdbData) and data.annotator is not None and data.windows is not None:
        yield Idle(
            key="data.windows",
            value=f"cutting into {data.windows.length:g} s",
            because="with an annotator, whose beats are the examples",
            remedy="leave one of them out",
        )
    if isinstance(data, SignalsData | WfdbData) and data.patient is None:
        yield from _given(
            "data",
            data,
            ("patient_median",),
            because="without a patient column",
            otherwise="name the column in patient",
        )
    if isinstance(data, WithStatic) and data.patient is None:
        yield from _idle_forms(data)
    if isinstance(data, AnySignals):
        yield from _idle_of_signals(study)
    if isinstance(data, FhirData):
        yield from _given(
            "data",
            data,
            ("max_per_patient",),
            because="where a patient is one example",
            otherwise="take another source",
        )
    if isinstance(data, ImagesData) and not data.arrays:
        yield from _given(
            "data",
            data,
            ("images",),
            because="with file",
            otherwise="name the npz files in arrays",
        )
    if isinstance(data, ImagesData) and data.arrays:
        yield from _given(
            "data",
            data,
            ("folder",),
            because="with arrays",
            otherwise="write the folder into their patterns",
        )


def _idle_forms(data: WithStatic) -> Iterator[Idle]:
    for place, feature in enumerate(data.static):
        if feature.form != "value":
            yield Idle(
                key=f"data.static.{place}.form",
                value=f'"{feature.form}"',
                because="without a patient column",
                remedy="name the column in patient",
            )


def _idle_of_signals(study: Study) -> Iterator[Idle]:
    for place, step in enumerate(study.preprocessing.steps):
        if isinstance(step, Normalise):
            yield from _given(
                f"preprocessing.steps.{place}",
                step,
                ("lower", "upper"),
                because="on signals, which are normalised by median and deviation",
                otherwise="take images",
            )


def _written(section: Section) -> dict[str, Any]:
    """A section within a section, as the file has it."""
    return section.model_dump(mode="json", by_alias=True, exclude_unset=True)


def _given(
    place: str, section: Section, names: tuple[str, ...], *, because: str, otherwise: str
) -> Iterator[Idle]:
    """Those of the names that are written out in the section, whatever their value."""
    for name in names:
        if name in section.model_fields_set:
            yield Idle(
                key=f"{place}.{name.replace('_', '-')}",
                value=json.dumps(getattr(section, name), default=_written),
                because=because,
                remedy=f"leave it out, or {otherwise}",
            )
