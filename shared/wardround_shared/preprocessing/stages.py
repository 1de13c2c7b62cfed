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
    Histogram,
    Impute,
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
    Window,
)

Kind = Literal["table", "image", "signal"]
ImageStep = Resize | Window | Normalise | Histogram
SignalStep = Normalise | Resample | BandPass | Crop
ArrayStep = Impute | Standardise | OneHot

_STAGES: dict[str, int] = {
    **dict.fromkeys(("resize", "window", "histogram", "resample", "band-pass", "crop"), 0),
    "normalise": 0,
    **dict.fromkeys(("impute", "standardise", "one-hot"), 1),
    "augment": 2,
}
_FOR_IMAGES = {"resize", "window", "normalise", "histogram", "standardise", "augment"}
_FOR_SIGNALS = {"resample", "band-pass", "normalise", "crop", "standardise", "augment"}
_FOR_COLUMNS = {"impute", "standardise", "one-hot"}


@dataclass(frozen=True, kw_only=True)
class Stages:
    """A study's steps by stage; exactly one of `image` and `signal` can hold any."""

    kind: Kind
    features: tuple[Feature, ...]
    image: tuple[ImageStep, ...]
    signal: tuple[SignalStep, ...]
    array: tuple[ArrayStep, ...]
    augment: Augment | None

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
    _check_source(steps, kind, features)
    _check_order(steps)
    _check_columns(steps, features)
    result = Stages(
        kind=kind,
        features=features,
        image=tuple(s for s in steps if kind == "image" and isinstance(s, ImageStep)),
        signal=tuple(s for s in steps if kind == "signal" and isinstance(s, SignalStep)),
        array=tuple(s for s in steps if isinstance(s, ArrayStep)),
        augment=next((s for s in steps if isinstance(s, Augment)), None),
    )
    _check_augmentation(result)
    _check_steps(study.data, steps)
    _check_rates(study.data, result.signal)
    return result


def source_kind(data: Data) -> Kind:
    """What one example of this source is."""
    if isinstance(data, TableData):
        return "table"
    return "signal" if isinstance(data, AnySignals | SequencesData) else "image"


def named_features(data: Data) -> tuple[Feature, ...]:
    """The columns of the part that is a table: `main` of tables, `static` of signals."""
    if isinstance(data, TableData):
        return data.features
    if not isinstance(data, AnySignals):
        return ()
    return tuple(
        feature if feature.form == "value" else Feature(column=f"{feature.column}, {feature.form}")
        for feature in data.static
    )


def _check_source(steps: Sequence[Step], kind: Kind, features: tuple[Feature, ...]) -> None:
    allowed = {"table": set(), "image": _FOR_IMAGES, "signal": _FOR_SIGNALS}[kind]
    if features:
        allowed = allowed | _FOR_COLUMNS
    for place, step in enumerate(steps):
        if step.name not in allowed:
            raise StudyError(
                f"preprocessing.steps.{place}: {step.name} does not fit what the data source "
                f"gives; {', '.join(sorted(allowed))} would."
            )
        if isinstance(step, Standardise) and step.part == "static" and kind != "signal":
            raise StudyError(
                f"preprocessing.steps.{place}: part = static needs data.static columns, "
                "which only signals have; leave part out."
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
                "single records, then impute, standardise and one-hot, then augment."
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


def _check_columns(steps: Sequence[Step], features: tuple[Feature, ...]) -> None:
    categorical = [f.column for f in features if f.kind == "categorical"]
    if categorical and not any(isinstance(step, OneHot) for step in steps):
        raise StudyError(
            f"preprocessing.steps: the column {categorical[0]} is categorical and needs a "
            "one-hot step."
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
