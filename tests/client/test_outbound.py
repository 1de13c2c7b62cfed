"""Nothing that is not finite leaves a site."""

import numpy as np
import pytest

from wardround_client import outbound
from wardround_shared.errors import PrivacyError, RunError
from wardround_shared.messages import read_sums, read_update


def test_the_vector_is_delta_times_weight_weight_counts():
    content = outbound.update(
        delta=np.array([0.5, -1.0], np.float32), weight=4, counts=np.arange(3.0)
    )
    update = read_update(content)
    np.testing.assert_array_equal(update.delta, [2.0, -4.0])
    assert update.weight == 4.0
    np.testing.assert_array_equal(update.counts, np.arange(3.0))
    assert list(content) == ["update"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_diverged_update_is_refused(value):
    with (
        np.errstate(over="ignore"),
        pytest.raises(RunError, match=r"lower training\.learning-rate"),
    ):
        outbound.update(delta=np.array([value], np.float32), weight=9, counts=np.zeros(1))


def test_sums_that_are_not_finite_are_refused():
    np.testing.assert_array_equal(read_sums(outbound.sums(np.ones(2))), np.ones(2))
    with pytest.raises(PrivacyError):
        outbound.sums(np.array([np.nan]))
    with pytest.raises(PrivacyError):
        outbound.update(delta=np.zeros(1, np.float32), weight=1, counts=np.array([np.inf]))
