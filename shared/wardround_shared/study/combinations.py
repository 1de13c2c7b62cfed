"""What goes together in a study, once each section by itself is right.

A key that is taken and then ignored would let its author believe in something that never happens:
it is refused like one that is misspelt.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from wardround_shared.errors import StudyError, UnsupportedError
from wardround_shared.study.data import (
    AnySignals,
    DicomData,
    ImagesData,
    IndexedData,
    Label,
    SignalsData,
    WfdbData,
)
from wardround_shared.study.document import Kind, Study
from wardround_shared.study.models import Gru, Lstm
from wardround_shared.study.preprocessing import Normalise
from wardround_shared.study.section import Section

_MODALITIES = {
    "table": "tabular",
    "images": "image",
    "dicom": "image",
    "nifti": "image",
    "phantom": "image",
    "wfdb": "signal",
    "edf": "signal",
    "dicom-waveform": "signal",
    "signals": "signal",
    "sequences": "sequence",
}

_TARGETS: dict[Kind, str] = {
    "classification": "label",
    "multilabel-classification": "label",
    "survival": "survival",
    "labelling": "label",
}
"""Where `[data]` says what is to be told of an example."""

_WITH_ONE_CLASS: dict[str, set[Kind]] = {
    "training.class-weights": {"classification", "labelling"},
    "simulation.partition": {"classification"},
}
"""What goes by class, and the tasks where an example, or a step, has just one."""


def check_combinations(study: Study, origin: str) -> None:
    """Refuse what cannot be done, what contradicts itself, and what would have no effect.

    Raises:
        UnsupportedError: not in this version.
        StudyError: naming `origin`, key, value and what to do.
    """
    task, source = study.study.task, study.data.source
    if task == "text-classification":
        raise UnsupportedError(f"{origin}: study.task: this version has no text models yet.")
    if study.study.modality != _MODALITIES[source]:
        raise StudyError(
            f'{origin}: study.task: "{task}" does not fit data.source = "{source}"; '
            f'write "{_MODALITIES[source]}-...", or name another source.'
        )
    _check_target(study, origin)
    _check_several(study, origin)
    for idle in _idle(study):
        raise StudyError(
            f"{origin}: {idle.key}: {idle.value} has no effect {idle.because}; {idle.remedy}."
        )


def _check_target(study: Study, origin: str) -> None:
    """Refuse a study whose data do not say what its task is about, or say something else."""
    kind, data = study.study.kind, study.data
    wanted = _TARGETS[kind]
    if getattr(data, wanted) is None:
        raise StudyError(
            f'{origin}: data.{wanted}: it is missing; task = "{study.study.task}" needs it.'
        )
    for other in {*_TARGETS.values()} - {wanted}:
        if getattr(data, other) is not None:
            raise StudyError(
                f"{origin}: data.{other}: it has no effect with task = "
                f'"{study.study.task}"; leave it out.'
            )
    for key, without in (
        ("training.class-weights", study.training.class_weights == "none"),
        ("simulation.partition", study.simulation.partition == "iid"),
    ):
        if not without and kind not in _WITH_ONE_CLASS[key]:
            raise StudyError(
                f"{origin}: {key}: it goes by the class of an example, and those of "
                f'"{study.study.task}" have no single class; leave it out.'
            )
    if data.label is not None:
        _check_label(study, data.label, origin)


def _check_label(study: Study, label: Label, origin: str) -> None:
    """Refuse texts for what is no class, and what only one class among others can have."""
    for key, named in (
        ("values", label.values),
        ("containing", label.containing),
        ("otherwise", [label.otherwise] if label.otherwise else []),
    ):
        unknown = [name for name in named if name not in study.study.classes]
        if unknown:
            raise StudyError(
                f"{origin}: data.label.{key}: {unknown[0]!r} is none of the study's classes "
                f"({', '.join(study.study.classes)})."
            )
    if study.study.kind == "labelling" and label.containing:
        raise StudyError(
            f"{origin}: data.label.containing: a step has one class, and no text with several in "
            "it; take values."
        )
    if study.study.kind != "multilabel-classification":
        return
    if label.otherwise is not None:
        raise StudyError(
            f"{origin}: data.label.otherwise: an example without any finding has none; leave it "
            "out."
        )
    without = [name for name in study.study.classes if name not in label.containing]
    if without:
        raise StudyError(
            f"{origin}: data.label.containing: {without[0]!r} has no texts; name those that stand "
            "in a cell with this finding."
        )


def _check_several(study: Study, origin: str) -> None:
    """Where one file gives several examples, it has to be known whose they are."""
    data = study.data
    if not isinstance(data, IndexedData) or data.several_of is None:
        return
    key = f"data.{data.several_of}"
    if data.patient is None:
        raise StudyError(
            f"{origin}: {key}: several examples come from one patient then; name the column of "
            "the patient key in data.patient."
        )
    if data.max_per_patient is not None:
        raise UnsupportedError(
            f"{origin}: data.max-per-patient: {data.max_per_patient} cannot be combined with "
            f"{key} in this version: how many examples there are is not known before the files "
            f"are read; leave it out, and take fewer with {key}."
        )


@dataclass(frozen=True, kw_only=True)
class _Idle:
    """A key without effect; `value` as the file has it."""

    key: str
    value: str
    because: str
    remedy: str


def _idle(study: Study) -> Iterator[_Idle]:
    """Every key that is given and that the other keys make idle."""
    training = study.training
    if training.momentum and training.optimiser != "sgd":
        yield _Idle(
            key="training.momentum",
            value=str(training.momentum),
            because=f'with optimiser = "{training.optimiser}"',
            remedy='write momentum = 0, or optimiser = "sgd"',
        )
    if study.simulation.partition == "iid":
        yield from _given(
            "simulation",
            study.simulation,
            ("alpha",),
            because='with partition = "iid"',
            otherwise='write partition = "dirichlet"',
        )
    if isinstance(study.model, Lstm | Gru) and not study.model.front:
        yield from _given(
            "model",
            study.model,
            ("front_kernel", "front_stride"),
            because="without a front end",
            otherwise="give front the channels of one",
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


def _idle_in_data(study: Study) -> Iterator[_Idle]:
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
        yield _Idle(
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
    if isinstance(data, AnySignals) and data.patient is None:
        for place, feature in enumerate(data.static):
            if feature.form != "value":
                yield _Idle(
                    key=f"data.static.{place}.form",
                    value=f'"{feature.form}"',
                    because="without a patient column",
                    remedy="name the column in patient",
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
    if not isinstance(data, AnySignals):
        return
    for place, step in enumerate(study.preprocessing.steps):
        if isinstance(step, Normalise):
            yield from _given(
                f"preprocessing.steps.{place}",
                step,
                ("lower", "upper"),
                because="on signals, which are normalised by median and deviation",
                otherwise="take images",
            )


def _given(
    place: str, section: Section, names: tuple[str, ...], *, because: str, otherwise: str
) -> Iterator[_Idle]:
    """Those of the names that are written out in the section, whatever their value."""
    for name in names:
        if name in section.model_fields_set:
            yield _Idle(
                key=f"{place}.{name.replace('_', '-')}",
                value=json.dumps(getattr(section, name)),
                because=because,
                remedy=f"leave it out, or {otherwise}",
            )
