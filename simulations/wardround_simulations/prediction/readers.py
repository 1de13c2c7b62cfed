"""Which reader of answers a task has."""

from collections.abc import Sequence

from wardround_shared.study import Study
from wardround_shared.tasks import Labelling, Localisation, Segmentation, task_of
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
    """
    match task_of(study):
        case Segmentation():
            return AreaReader(study)
        case Localisation() as task:
            return MarkReader(study, task, counts)
        case Labelling():
            return StageReader(study, counts)
    return FigureReader(study, counts)
