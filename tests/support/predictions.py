"""What `predict` says beside what `evaluate` measures."""

import numpy as np
import pytest

from wardround_shared.tasks import task_of
from wardround_simulations.evaluation import evaluate_run, open_run
from wardround_simulations.prediction.prediction import Failure, predict_inputs


def answers(run, paths, **options):
    """Predictions of inputs of which none may fail."""
    found = [*predict_inputs(open_run(run), paths, **options)]
    assert not [one for one in found if isinstance(one, Failure)]
    return found


def predicted(run, paths, **options):
    """Values [N, ...] of inputs of which none may fail."""
    return np.stack([one.values for one in answers(run, paths, **options)])


def require_same(run, data, cache, site, values, targets, *, tolerance=0.0):  # noqa: PLR0917
    """The counts of these predictions are those that `evaluate` gives for the site.

    To the last bit, if both asked the network in batches of the same examples.
    """
    task = task_of(open_run(run).study)
    expected = evaluate_run(run, data, cache=cache)["per_site"][site]
    found = task.metrics(task.count(values, np.asarray(targets)))
    assert found == pytest.approx(expected, rel=tolerance, abs=0.0)
