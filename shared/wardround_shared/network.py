"""The network of a study: its model, with what its task adds to it."""

from torch import nn

from wardround_shared.models import build_model
from wardround_shared.study import Study
from wardround_shared.tasks import task_of


def build_network(study: Study, shapes: tuple[tuple[int, ...], ...]) -> nn.Module:
    """Build what is trained, initialised from torch's global random state.

    Args:
        study: names model and task.
        shapes: of one example after preprocessing: main, and static if there is one.

    Raises:
        StudyError: the model cannot take examples of these shapes.
    """
    task = task_of(study)
    return task.headed(build_model(study.model, shapes, task.outputs, task.answers))
