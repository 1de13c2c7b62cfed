"""What goes together in a study, once each section by itself is right.

A key that is taken and then ignored would let its author believe in something that never happens:
it is refused like one that is misspelt.
"""

from typing import get_args

from wardround_shared.errors import StudyError, UnsupportedError
from wardround_shared.study.data import (
    ImagesData,
    IndexedData,
    Label,
    TableData,
    TextData,
    WithStatic,
)
from wardround_shared.study.document import Kind, Study, Task
from wardround_shared.study.idle import idle_keys
from wardround_shared.study.models import Bilstm, DcGan

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
    "fhir": "record",
    "text": "text",
}

_TARGETS: dict[Kind, str] = {
    "classification": "label",
    "multilabel-classification": "label",
    "survival": "survival",
    "labelling": "label",
    "segmentation": "mask",
    "localisation": "points",
    "generation": "label",
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
        StudyError: naming `origin`, key, value and what to do.
    """
    task, source = study.study.task, study.data.source
    if study.study.modality != _MODALITIES[source]:
        raise StudyError(
            f'{origin}: study.task: "{task}" does not fit data.source = "{source}"; '
            f"write {_tasks_of(_MODALITIES[source])}, or name another source."
        )
    # Hashed words have the shape of a signal, so that no model could tell by itself.
    if isinstance(study.model, Bilstm) != (source == "text"):
        raise StudyError(
            f'{origin}: model.name: "{study.model.name}" does not go with data.source = '
            f'"{source}"; texts need "bilstm", and no other source does.'
        )
    if isinstance(study.model, DcGan) != (study.study.kind == "generation"):
        raise StudyError(
            f'{origin}: model.name: "{study.model.name}" does not go with task = "{task}"; images '
            'are made by "dcgan", and it does nothing else.'
        )
    _check_target(study, origin)
    _check_answer_is_not_read(study, origin)
    _check_several(study, origin)
    _check_personal(study, origin)
    _check_scaffold(study, origin)
    for idle in idle_keys(study):
        raise StudyError(
            f"{origin}: {idle.key}: {idle.value} has no effect {idle.because}; {idle.remedy}."
        )


def _tasks_of(modality: str) -> str:
    fitting = [f'"{task}"' for task in get_args(Task) if task.partition("-")[0] == modality]
    return " or ".join(fitting)


def _check_target(study: Study, origin: str) -> None:
    """Refuse a study whose data do not say what its task is about, or say something else."""
    kind, data = study.study.kind, study.data
    wanted = _TARGETS[kind]
    if getattr(data, wanted) is None:
        raise StudyError(
            f'{origin}: data.{wanted}: it is missing; task = "{study.study.task}" needs it.'
        )
    for other in {*_TARGETS.values()} - {wanted}:
        if other in data.model_fields_set:  # a phantom's label is there by itself
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
    if isinstance(data, ImagesData) and data.arrays and wanted in {"mask", "points"}:
        raise StudyError(
            f"{origin}: data.{wanted}: it goes with files and not with arrays; name the images in "
            "a table (file)."
        )
    if isinstance(data, WithStatic) and data.static and wanted in {"mask", "points"}:
        raise StudyError(
            f"{origin}: data.static: a model that answers for each pixel takes no static columns; "
            "leave it out."
        )
    if wanted != "label":
        return
    if isinstance(data.label, Label):
        _check_label(study, data.label, origin)
    elif data.label is not None and len(study.study.classes) != 2:
        raise StudyError(
            f"{origin}: study.classes: data.label.conditions tells two classes, the second of "
            f"which has the condition, and the study has {len(study.study.classes)}."
        )


def _check_answer_is_not_read(study: Study, origin: str) -> None:
    """Refuse a study whose model is told what it is to tell: its figures would mean nothing."""
    data = study.data
    answers = set()
    if isinstance(data.label, Label):
        answers.add(data.label.column)
    if data.survival is not None:
        answers |= {data.survival.time, data.survival.event}
    read: list[tuple[str, str]] = []
    if isinstance(data, TableData):
        read = [(f"features.{place}", one.column) for place, one in enumerate(data.features)]
    elif isinstance(data, TextData):
        read = [("text", column) for column in data.text]
    elif isinstance(data, WithStatic):
        read = [(f"static.{place}", one.column) for place, one in enumerate(data.static)]
    for key, column in read:
        if column in answers:
            raise StudyError(
                f"{origin}: data.{key}: {column!r} is what the model is to tell; leave it out of "
                "what it is told."
            )


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


def _check_personal(study: Study, origin: str) -> None:
    """Refuse what would give a site two models, or layers of a model that it does not have."""
    if study.personal.any and study.study.kind == "generation":
        raise UnsupportedError(
            f"{origin}: personal: a site has no images made of its own in this version, since the "
            "generator is trained at the server; leave it out."
        )
    _check_ditto(study, origin)
    if study.personal.layers != "none" and study.training.average_last > 1:
        raise UnsupportedError(
            f"{origin}: training.average-last: {study.training.average_last} cannot be combined "
            f'with personal.layers = "{study.personal.layers}" in this version: a site\'s layers '
            "go with one model and not with the mean of several; leave one of them out."
        )


def _check_ditto(study: Study, origin: str) -> None:
    """One own model for each site, and steps that do not pull it beyond the shared one."""
    personal, rate = study.personal, study.training.learning_rate
    if personal.ditto is None:
        return
    for key, given in (
        ("layers", personal.layers != "none"),
        ("fine-tune-epochs", personal.fine_tune_epochs > 0),
    ):
        if given:
            raise StudyError(
                f"{origin}: personal.ditto: {personal.ditto:g} gives each site a whole model of "
                f"its own, which leaves nothing to personal.{key}; take one of them."
            )
    if personal.ditto * rate > 1:
        raise StudyError(
            f"{origin}: personal.ditto: {personal.ditto:g} times training.learning-rate = {rate:g} "
            "is more than 1, so that each step would go beyond the shared model; lower one of them."
        )


def _check_scaffold(study: Study, origin: str) -> None:
    """Refuse what the control variates of scaffold would be wrong with."""
    training = study.training
    if training.strategy != "scaffold":
        return
    if study.study.kind == "generation":
        raise UnsupportedError(
            f'{origin}: training.strategy: "scaffold" does not go with making images in '
            "this version, since each round has another generator; take another strategy."
        )
    if training.local_steps is None:
        raise StudyError(
            f'{origin}: training.local-steps: strategy = "scaffold" needs it, since it measures '
            "drift over as many steps at every site; write how many a round has."
        )
    for key, value, given in (
        ("optimiser", f'"{training.optimiser}"', training.optimiser != "sgd"),
        ("momentum", f"{training.momentum:g}", training.momentum > 0),
    ):
        if given:
            raise StudyError(
                f'{origin}: training.{key}: {value} does not go with strategy = "scaffold", which '
                "reads a site's mean gradient off its change of the model; take plain sgd "
                '(optimiser = "sgd", momentum = 0).'
            )
    if study.aggregation.secure and study.aggregation.ring_bits == 16:
        raise UnsupportedError(
            f'{origin}: aggregation.ring-bits: 16 does not go with strategy = "scaffold", which '
            "adds up what 16 bits round, over all rounds; write 32."
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
    for one, given in (
        ("mask.column", data.mask is not None and data.mask.column is not None),
        ("points", data.points is not None),
    ):
        if given:
            raise StudyError(
                f"{origin}: data.{one}: it tells of one picture, and {key} takes several from a "
                "file; take one of them."
            )
    if data.max_per_patient is not None:
        raise UnsupportedError(
            f"{origin}: data.max-per-patient: {data.max_per_patient} cannot be combined with "
            f"{key} in this version: how many examples there are is not known before the files "
            f"are read; leave it out, and take fewer with {key}."
        )
