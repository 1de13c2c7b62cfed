"""Which step may stand where: a study's steps sorted into three stages, or refused.

Record steps change one example while it is decoded, array steps the stacked examples of a site,
and augmentation a batch in training. The order in the study file must keep the stages apart,
because the result of the first stage is cached and that of the last one never kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wardround_shared.errors import StudyError
from wardround_shared.study import (
    AnySignals,
    Augment,
    BandPass,
    Crop,
    Data,
    Feature,
    FhirData,
    Fill,
    HashWords,
    Histogram,
    Impute,
    MatchHistogram,
    Normalise,
    OneHot,
    Resample,
    Resize,
    SequencesData,
    SignalsData,
    Standardise,
    Step,
    Study,
    TableData,
    TextData,
    Window,
    WithStatic,
)

Kind = Literal["table", "image", "signal", "record", "text"]
ImageStep = Resize | Window | Normalise | Histogram
SignalStep = Normalise | Resample | BandPass | Crop
ArrayStep = MatchHistogram | Impute | Standardise | Fill | OneHot

_STAGES: dict[str, int] = {
    **dict.fromkeys(("resize", "window", "histogram", "resample", "band-pass", "crop"), 0),
    **dict.fromkeys(("normalise", "hash-words"), 0),
    **dict.fromkeys(("match-histogram", "impute", "standardise", "fill", "one-hot"), 1),
    "augment": 2,
}
_FOR_IMAGES = {"resize", "window", "normalise", "histogram", "standardise", "augment"}
_FOR_IMAGES |= {"match-histogram"}
_FOR_SIGNALS = {"resample", "band-pass", "normalise", "crop", "standardise", "augment"}
_FOR_RECORDS = {"standardise", "fill"}
_FOR_TEXTS = {"hash-words"}
_FOR_COLUMNS = {"impute", "standardise", "one-hot"}
_ALLOWED: dict[Kind, set[str]] = {
    "table": set(),
    "image": _FOR_IMAGES,
    "signal": _FOR_SIGNALS,
    "record": _FOR_RECORDS,
    "text": _FOR_TEXTS,
}
# In years, and as FHIR has it (Patient.gender); anything else is missing.
_OF_PATIENTS = {
    "age": Feature(column="age"),
    "sex": Feature(column="sex", kind="categorical", categories=("female", "male")),
}


@dataclass(frozen=True, kw_only=True)
class Stages:
    """A study's steps by stage; at most one of `image`, `signal` and `text` holds any.

    Attributes:
        features: columns of the part that is a table.
        observed: number of features of records over time, else 0.
    """

    kind: Kind
    features: tuple[Feature, ...]
    observed: int
    image: tuple[ImageStep, ...]
    signal: tuple[SignalStep, ...]
    text: tuple[HashWords, ...]
    array: tuple[ArrayStep, ...]
    augment: Augment | None

    @property
    def record(self) -> tuple[Step, ...]:
        """The steps on single records."""
        return (*self.image, *self.signal, *self.text)

    @property
    def histogram(self) -> Histogram | None:
        """The step that turns images into a table, if there is one."""
        last = self.image[-1] if self.image else None
        return last if isinstance(last, Histogram) else None


def stages(study: Study) -> Stages:
    """Sort the steps of a study into stages.

    Raises:
        StudyError: a step does not fit the source, or stands where it cannot stand.
    """
    kind, features = source_kind(study.data), named_features(study.data)
    steps = study.preprocessing.steps
    _check_source(study.data, steps, kind, features)
    _check_order(steps)
    _check_matching(steps)
    _check_columns(steps, features)
    _check_words(steps, kind)
    result = Stages(
        kind=kind,
        features=features,
        observed=len(study.data.features) if isinstance(study.data, FhirData) else 0,
        image=tuple(s for s in steps if kind == "image" and isinstance(s, ImageStep)),
        signal=tuple(s for s in steps if kind == "signal" and isinstance(s, SignalStep)),
        text=tuple(s for s in steps if isinstance(s, HashWords)),
        array=tuple(s for s in steps if isinstance(s, ArrayStep)),
        augment=next((s for s in steps if isinstance(s, Augment)), None),
    )
    _check_augmentation(result)
    _check_steps(study.data, steps)
    _check_pictures(study, result)
    if kind == "record":
        _check_filling(steps)
    _check_rates(study.data, result.signal)
    return result


def source_kind(data: Data) -> Kind:
    """What one example of this source is."""
    if isinstance(data, TableData):
        return "table"
    if isinstance(data, FhirData):
        return "record"
    if isinstance(data, TextData):
        return "text"
    return "signal" if isinstance(data, AnySignals | SequencesData) else "image"


def named_features(data: Data) -> tuple[Feature, ...]:
    """The columns of the part that is a table: `main` of tables, else `static`."""
    if isinstance(data, TableData):
        return data.features
    if isinstance(data, FhirData):
        return tuple(_OF_PATIENTS[name] for name in data.static)
    if not isinstance(data, WithStatic):
        return ()
    return tuple(
        feature if feature.form == "value" else Feature(column=f"{feature.column}, {feature.form}")
        for feature in data.static
    )


def _check_source(
    data: Data, steps: Sequence[Step], kind: Kind, features: tuple[Feature, ...]
) -> None:
    allowed = _ALLOWED[kind]
    if features:
        allowed = allowed | _FOR_COLUMNS
    for place, step in enumerate(steps):
        if step.name not in allowed:
            raise StudyError(
                f"preprocessing.steps.{place}: {step.name} does not fit what the data source "
                f"gives; {', '.join(sorted(allowed))} would."
            )
        beside = isinstance(data, WithStatic | FhirData)
        if isinstance(step, Standardise) and step.part == "static" and not beside:
            raise StudyError(
                f"preprocessing.steps.{place}: part = static needs data.static columns, which "
                f'source = "{data.source}" does not have; leave part out.'
            )
        if isinstance(step, Standardise) and step.part == "static" and not features:
            raise StudyError(
                f"preprocessing.steps.{place}: part = static needs columns in data.static."
            )


def _check_order(steps: Sequence[Step]) -> None:
    reached, seen = 0, set()
    for place, step in enumerate(steps):
        stage = _STAGES[step.name]
        if stage < reached:
            raise StudyError(
                f"preprocessing.steps.{place}: {step.name} comes too late; first the steps on "
                "single records, then match-histogram, impute, standardise and one-hot, then "
                "augment."
            )
        if place and isinstance(steps[place - 1], Histogram) and stage == 0:
            raise StudyError(
                f"preprocessing.steps.{place}: {step.name} cannot follow histogram, which leaves "
                "no image; put it before."
            )
        key = (step.name, step.part if isinstance(step, Standardise) else "")
        if stage > 0 and key in seen:
            raise StudyError(f"preprocessing.steps.{place}: {step.name} stands there twice.")
        reached = stage
        seen.add(key)


def _check_matching(steps: Sequence[Step]) -> None:
    """What match-histogram would undo, or what would leave it no image."""
    place = next((i for i, step in enumerate(steps) if isinstance(step, MatchHistogram)), None)
    if place is None:
        return
    before = f"preprocessing.steps.{place}: match-histogram"
    for step in steps[:place]:
        if isinstance(step, Histogram):
            raise StudyError(f"{before} needs an image, and histogram leaves none; take one.")
        if isinstance(step, Normalise):
            raise StudyError(
                f"{before} brings each image to a range by itself; leave normalise out."
            )
        if isinstance(step, Standardise) and step.part == "main":
            raise StudyError(
                f"{before} would undo standardise, which stands before it; put it before that."
            )


def _check_filling(steps: Sequence[Step]) -> None:
    """Records have gaps, and only the mean that standardise leaves at zero is one to fill with."""
    names = [
        step.name for step in steps if not (isinstance(step, Standardise) and step.part == "static")
    ]
    if "fill" not in names or "standardise" not in names[: names.index("fill")]:
        raise StudyError(
            "preprocessing.steps: records over time have gaps and need standardise and then fill."
        )


def _check_columns(steps: Sequence[Step], features: tuple[Feature, ...]) -> None:
    categorical = [f.column for f in features if f.kind == "categorical"]
    if categorical and not any(isinstance(step, OneHot) for step in steps):
        raise StudyError(
            f"preprocessing.steps: the column {categorical[0]} is categorical and needs a "
            "one-hot step."
        )


def _check_words(steps: Sequence[Step], kind: Kind) -> None:
    if kind == "text" and len(steps) != 1:
        raise StudyError(
            "preprocessing.steps: texts need one hash-words step, which makes numbers of words, "
            "and nothing else."
        )


def _check_augmentation(plan: Stages) -> None:
    step = plan.augment
    if step is None:
        return
    if plan.histogram:
        raise StudyError("preprocessing.steps: augment cannot follow histogram; take one of them.")
    if plan.kind == "signal" and (step.flip or step.rotate):
        raise StudyError(
            "preprocessing.steps: augment can flip and rotate images only; signals take shift, "
            "scale and noise."
        )


def _check_steps(data: Data, steps: Sequence[Step]) -> None:
    """Each step of a sequence has a label of its own: none may come, go or move."""
    if not isinstance(data, SequencesData):
        return
    for place, step in enumerate(steps):
        if step.name in {"resample", "crop"} or (isinstance(step, Augment) and step.shift):
            what = "shift" if isinstance(step, Augment) else step.name
            raise StudyError(
                f"preprocessing.steps.{place}: {what} would part the steps of a sequence from "
                "their labels; leave it out."
            )


def _check_pictures(study: Study, plan: Stages) -> None:
    """An answer for each pixel needs the pixels, and points do not move with an image."""
    kind, step = study.study.kind, plan.augment
    if kind not in {"segmentation", "localisation", "generation"}:
        return
    if kind == "generation":
        _check_range(study)
    if plan.histogram:
        raise StudyError(
            f"preprocessing.steps: after histogram there are no pixels for {study.study.task}; "
            "leave it out."
        )
    if kind == "localisation" and step and (step.flip or step.rotate or step.shift or step.scale):
        raise StudyError(
            "preprocessing.steps: augment would move the image and not the points of its lesions; "
            "for image-localisation it takes noise only."
        )


def _check_range(study: Study) -> None:
    """Images are made with values from 0 to 1, and so have to be those to learn from."""
    for place, step in enumerate(study.preprocessing.steps):
        if isinstance(step, Standardise | MatchHistogram):
            raise StudyError(
                f"preprocessing.steps.{place}: after {step.name} values are no longer from 0 to 1, "
                "as a generator makes them; leave it out."
            )
    ranged = any(isinstance(step, Window | Normalise) for step in study.preprocessing.steps)
    if study.data.source != "images" and not ranged:
        raise StudyError(
            f'preprocessing.steps: values from data.source = "{study.data.source}" have any range, '
            "and a generator makes 0 to 1; add a window or normalise step."
        )


def _check_rates(data: Data, steps: Sequence[SignalStep]) -> None:
    """Where the study itself gives the sampling rate, a band beyond half of it is its fault."""
    rate = data.sampling_rate if isinstance(data, SignalsData) else None
    for step in steps:
        if isinstance(step, Resample):
            rate = step.rate
        elif isinstance(step, BandPass) and rate is not None and step.high >= rate / 2:
            raise StudyError(
                f"preprocessing.steps: band-pass: high = {step.high:g} Hz must be below half "
                f"the sampling rate ({rate:g} Hz)."
            )
