"""Task -> what its targets are, what a model puts out for it, its loss and its metrics.

One task a file. `task_of` is the public face; everything that differs between tasks in training,
in counting and in what a summary says goes through the `Task` that it returns.
"""

from wardround_shared.study import SequencesData, Study
from wardround_shared.tasks.classification import Classification
from wardround_shared.tasks.generation import Generation, adversaries
from wardround_shared.tasks.labelling import NO_CLASS, Labelling
from wardround_shared.tasks.localisation import Localisation
from wardround_shared.tasks.multilabel import MultiLabel
from wardround_shared.tasks.segmentation import Segmentation
from wardround_shared.tasks.survival import ProportionalHazards
from wardround_shared.tasks.task import Task

__all__ = [
    "NO_CLASS",
    "Classification",
    "Generation",
    "Labelling",
    "Localisation",
    "MultiLabel",
    "ProportionalHazards",
    "Segmentation",
    "Task",
    "adversaries",
    "task_of",
]


def task_of(study: Study) -> Task:  # noqa: PLR0911 - one for each
    """What the study learns."""
    data = study.data
    match study.study.kind:
        case "classification":
            return Classification(study.study.classes)
        case "multilabel-classification":
            return MultiLabel(study.study.classes)
        case "labelling":
            assert isinstance(data, SequencesData)  # `check_combinations`
            return Labelling(study.study.classes, data.length)
        case "segmentation":
            return Segmentation(study.study.classes)
        case "localisation":
            assert data.points is not None
            return Localisation(data.points.most)
        case "generation":
            return Generation(study.study.classes)
        case "survival":
            assert data.survival is not None  # `check_combinations`
            return ProportionalHazards(data.survival.horizon, data.survival.intervals)
