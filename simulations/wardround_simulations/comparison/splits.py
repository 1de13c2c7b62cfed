"""The patients that all ways have in common: who trains, who validates, and where.

Patients are dealt to training and validation by a hash of their own key (`split.py` of the site),
so each way finds the same ones; what could still change that is refused here. n = examples.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wardround_client.cohort import Cohort, CohortSet
from wardround_shared.errors import StudyError
from wardround_shared.study import Study
from wardround_simulations.comparison.ways import Studies
from wardround_simulations.settings import Settings
from wardround_simulations.virtual_sites import read_cohorts


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The cohorts of one form of the study.

    Attributes:
        trained: what the ways train on.
        scored: the same patients with all their examples, of which the validation split is scored;
            `max-per-patient` is for training.
    """

    trained: CohortSet
    scored: CohortSet


def read_splits(settings: Settings, studies: Studies) -> tuple[Splits, Splits | None]:
    """The cohorts without and, where there is such a form, with privacy.

    Raises:
        DataError: the data cannot be used as the study describes them.
        StudyError: the ways would not train or validate on the same patients and examples.
    """
    plain = _read(settings, studies.plain)
    if studies.private is None:
        return plain, None
    private = _read(settings, studies.private)
    _require_same(plain.trained, private.trained, _patients_of_splits)
    _require_same(plain.scored, private.scored, _scored_examples)
    return plain, private


def _read(settings: Settings, study: Study) -> Splits:
    trained = read_cohorts(replace(settings, study=study))
    if study.data.max_per_patient is None:
        return Splits(trained=trained, scored=trained)
    whole = study.data.model_copy(update={"max_per_patient": None})
    unthinned = study.model_copy(update={"data": whole})
    scored = read_cohorts(replace(settings, study=unthinned))
    _require_same(trained, scored, _patients_of_splits)
    return Splits(trained=trained, scored=scored)


def _require_same(
    one: CohortSet, other: CohortSet, of: Callable[[Cohort], tuple[NDArray[np.generic], ...]]
) -> None:
    """Refuse two sets of cohorts that differ in what is to be the same in all ways."""
    same = [c.site for c in one.cohorts] == [c.site for c in other.cohorts] and all(
        np.array_equal(a, b)
        for first, second in zip(one.cohorts, other.cohorts, strict=True)
        for a, b in zip(of(first), of(second), strict=True)
    )
    if not same:
        raise StudyError(
            "--compare: the ways would not train and validate on the same patients and examples, "
            "because data.max-per-patient or what stands under [private] changes who is where; "
            "leave that out of the study that is compared."
        )


def _patients_of_splits(cohort: Cohort) -> tuple[NDArray[np.generic], ...]:
    patients = cohort.patients
    return np.unique(patients[cohort.train]), np.unique(patients[cohort.validation])


def _scored_examples(cohort: Cohort) -> tuple[NDArray[np.generic], ...]:
    return cohort.patients[cohort.validation], np.asarray(cohort.targets[cohort.validation])
