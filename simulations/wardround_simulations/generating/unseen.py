"""Patients whom neither the generator nor the classifier was trained on.

On which side of the split a patient is follows from the study's name, the share that is set aside,
and the patient's key (`split.py` of the site): two studies would split the same patients in two
ways, and a classifier would be measured on images that the generator has learned from.
"""

from dataclasses import replace

import numpy as np

from wardround_client.cohort import Cohort
from wardround_shared.errors import CohortError, DataError, StudyError
from wardround_shared.study import Study
from wardround_simulations.settings import Settings
from wardround_simulations.virtual_sites import read_cohorts


def with_split_of(generator: Study, study: Study) -> Study:
    """The study, with each patient on the side where the generator's study has that patient."""
    identity = study.study.model_copy(update={"name": generator.study.name})
    aside = {"validation_fraction": generator.data.validation_fraction}
    data = study.data.model_copy(update=aside)
    return study.model_copy(update={"study": identity, "data": data})


def require_unseen(generator: Study, settings: Settings, cohort: Cohort) -> None:
    """Refuse to measure on patients of whom it cannot be told whether the generator had them.

    Args:
        generator: its study.
        settings: of the classifier, with the data that both are read from.
        cohort: of the classifier.

    Raises:
        StudyError: the generator's study knows some validation patients under no key or another
            one, or trains on them.
    """
    try:
        (theirs,) = read_cohorts(replace(settings, study=generator, sites=1)).cohorts
    except (DataError, CohortError) as error:
        raise StudyError(
            "--effect-on: the generator's study cannot be read from these data, so that it cannot "
            f"be told whom the generator has seen ({error}); name data that both studies can use."
        ) from error
    measured = np.unique(cohort.patients[cohort.validation])
    unseen = np.unique(theirs.patients[theirs.validation])
    if not np.isin(measured, unseen).all():
        raise StudyError(
            "--effect-on: the two studies tell patients apart in different ways, so that it cannot "
            "be told whom the generator has seen; give both the same files and data.patient."
        )
