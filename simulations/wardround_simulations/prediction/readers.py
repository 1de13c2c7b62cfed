"""Which reader of answers a task has."""

from collections.abc import Sequence

from wardround_shared.errors import UnsupportedError
from wardround_shared.study import Study
from wardround_shared.tasks import Generation, Labelling, Localisation, Segmentation, task_of
from wardround_simulations.prediction.answers import Reader
from wardround_simulations.prediction.areas import AreaReader
from wardround_simulations.prediction.figures import FigureReader
from wardround_simulations.prediction.marks import MarkReader
from wardround_simulations.prediction.stages import StageReader


def reader_of(study: Study, counts: Sequence[float]) -> Reader:
    """The reader for the study's task.

    Args:
        study: of the run.
        counts: of its summary, over all sites; empty if there are none.

    Raises:
        UnsupportedError: the model says nothing of an input.
    """
    match task_of(study):
        case Segmentation():
            return AreaReader(study)
        case Localisation() as task:
            return MarkReader(study, task, counts)
        case Labelling():
            return StageReader(study, counts)
        case Generation():
            raise UnsupportedError(
                f"predict cannot answer for the task {study.study.task}: its model makes images "
                "and says nothing of one."
            )
    return FigureReader(study, counts)
