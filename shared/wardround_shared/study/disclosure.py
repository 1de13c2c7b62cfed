"""The disclosure statement: what a study takes from patients beside what epsilon covers.

Whatever is derived from patients and leaves a site is either in the site's ledger, or it is here. A
hospital reads it before it approves a study; every summary and report of a run repeats it.
"""

from dataclasses import asdict, dataclass
from typing import Any

from wardround_shared.study.data import (
    AnySignals,
    SignalsData,
    TextData,
    WfdbData,
    WithStatic,
)
from wardround_shared.study.document import Study
from wardround_shared.study.preprocessing import Impute, MatchHistogram, Standardise

_MAY_REVEAL = "this model may reveal its training data"
NOT_PRIVATE = f"NONE (mechanism = none): {_MAY_REVEAL}"
"""What is said beside a model that was trained without differential privacy."""

INJECTED_NOISE = f"NONE (the noise was injected for a test): {_MAY_REVEAL}"
"""What is said beside a model whose noise was not drawn by the system, and is known to somebody."""


def unprotected(study: Study, noise: str) -> str:
    """What is to be said beside everything that a model gives if it protects nobody; else empty.

    Args:
        study: that it was trained by.
        noise: where the noise came from, as the run's summary says; "system" in life.
    """
    if not study.privacy.private:
        return NOT_PRIVATE
    return "" if noise == "system" else INJECTED_NOISE


@dataclass(frozen=True, kw_only=True)
class Disclosure:
    """One thing that a site gives away.

    Attributes:
        what: in words.
        purpose: why the study needs it.
        form: how exact it is, and who gets it.
    """

    what: str
    purpose: str
    form: str


def disclosures(study: Study) -> tuple[Disclosure, ...]:
    """What sites of this study give away that no epsilon covers, in the order of the run."""
    form = _form(study)
    told = [
        Disclosure(
            what="that the site takes part, when it answers, and the shape of an example",
            purpose="to run the study",
            form="in clear, to the server",
        )
    ]
    if study.training.strategy == "scaffold":
        told.append(
            Disclosure(
                what="in which round this site's update was counted last",
                purpose='strategy = "scaffold": each site goes on from that round',
                form="in clear, to all sites, in each round",
            )
        )
    if study.training.class_weights == "balanced":
        told.append(
            Disclosure(
                what="class counts: number of training examples of each class",
                purpose='class-weights = "balanced"',
                form=f"{form}, once",
            )
        )
    told += [
        Disclosure(
            what=f"sums behind {step.name}: {_summed(step)}",
            purpose=f"the constants of {step.name}, which stand in the model file",
            form=f"{form}, once",
        )
        for step in study.preprocessing.steps
        if isinstance(step, Impute | MatchHistogram | Standardise)
    ]
    told += [
        *_units(study),
        Disclosure(
            what="number of training examples",
            purpose="the weight of a site's update",
            form=f"{form}, in each round",
        ),
        Disclosure(
            what=_measured(study),
            purpose="to measure the model",
            form=f"{form}, in each round",
        ),
    ]
    if not study.privacy.private:
        told.append(
            Disclosure(
                what="the change of the model by training on the site's patients",
                purpose="learning, WITHOUT differential privacy: nothing bounds what it reveals",
                form=f"{form}, in each round",
            )
        )
        told += _words(study)
    elif _patients_unknown(study):
        told.append(
            Disclosure(
                what="who has several records: data.patient is not given, and each record counts "
                "as a patient of its own",
                purpose="the data name no patient",
                form="through the model: such a patient is protected less than epsilon says",
            )
        )
    elif _records_see_each_other(study):
        told.append(
            Disclosure(
                what="a record's part in what its patient's other records are compared with",
                purpose='data.static with a form, or patient-median, under unit = "record"',
                form="through the model: each of the other records is clipped by itself",
            )
        )
    if study.privacy.private and _records_overlap(study):
        told.append(
            Disclosure(
                what="a moment of a recording that is in several windows",
                purpose='data.windows with a stride below the length, under unit = "record"',
                form="through the model: each of the windows is clipped by itself",
            )
        )
    return tuple(told)


def promise(study: Study) -> dict[str, Any]:
    """What a study promises to patients, and gives away beside it, as a run's summary says it."""
    told = [asdict(one) for one in disclosures(study)]
    privacy = study.privacy
    if not privacy.private:
        return {"mechanism": "none", "unit": None, "delta": None, "disclosures": told}
    return {
        "mechanism": privacy.mechanism,
        "unit": privacy.unit,
        "planned_epsilon": privacy.epsilon,
        "delta": privacy.delta,
        "max_grad_norm": privacy.max_grad_norm,
        "disclosures": told,
    }


def _measured(study: Study) -> str:
    if study.study.kind != "generation":
        return "metric counts on the validation split"
    return (
        "metric counts on the validation split: among them sums, over its images, of their "
        "features and of products of two features"
    )


def _summed(step: Impute | MatchHistogram | Standardise) -> str:
    if isinstance(step, MatchHistogram):
        return (
            "percentiles of each image's intensities, on a scale from its 1st to its 99th, "
            "over the training images"
        )
    return "of each column or channel over the training examples"


def _units(study: Study) -> list[Disclosure]:
    if not study.privacy.private:
        return []
    return [
        Disclosure(
            what=f"number of training {study.privacy.unit}s",
            purpose="sample rate, steps and noise, which epsilon takes as known",
            form="not sent, but to be guessed from the time a site takes and from refusals",
        )
    ]


def _words(study: Study) -> list[Disclosure]:
    if not isinstance(study.data, TextData):
        return []
    return [
        Disclosure(
            what="which buckets of the hash the words of the site's texts fall into: whoever has a "
            "list of words can see which of them may be there, and which are not",
            purpose="the vectors of words that were there change, and no others",
            form=f"{_form(study)}, in each round, and in the model",
        )
    ]


def _form(study: Study) -> str:
    if study.aggregation.secure:
        return "exact, as a sum over sites only"
    return "exact, of each site by itself, to the server"


def _records_see_each_other(study: Study) -> bool:
    """Whether removing one record changes the inputs of others of its patient."""
    data = study.data
    return (
        study.privacy.unit == "record"
        and isinstance(data, WithStatic)
        and (_has_median(data) or any(feature.form != "value" for feature in data.static))
    )


def _has_median(data: WithStatic) -> bool:
    return isinstance(data, SignalsData | WfdbData) and data.patient_median


def _records_overlap(study: Study) -> bool:
    """Whether one moment of a recording is in several records."""
    data = study.data
    return (
        study.privacy.unit == "record"
        and isinstance(data, AnySignals)
        and data.windows is not None
        and data.windows.overlap
    )


def _patients_unknown(study: Study) -> bool:
    return study.privacy.unit == "patient" and not study.data.names_patients
