"""Nothing that is not finite leaves a site."""

from types import SimpleNamespace

import numpy as np
import pytest

from wardround_client import outbound
from wardround_shared.errors import PrivacyError, RunError
from wardround_shared.messages import read_sums, read_update


def test_the_vector_is_delta_times_weight_weight_counts():
    formed = outbound.update(
        delta=np.array([0.5, -1.0], np.float32), weight=4, counts=np.arange(3.0)
    )
    content = outbound.sent(formed, None)
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
    content = outbound.sent(outbound.sums(np.ones(2)), None)
    np.testing.assert_array_equal(read_sums(content), np.ones(2))
    with pytest.raises(PrivacyError):
        outbound.sums(np.array([np.nan]))
    with pytest.raises(PrivacyError):
        outbound.update(delta=np.zeros(1, np.float32), weight=1, counts=np.array([np.inf]))


QUANTISED = {"words": np.arange(4, dtype=np.uint32)}


@pytest.mark.parametrize(
    "formed",
    [
        QUANTISED,
        {"sums": QUANTISED["words"]},
        {"sums": np.ones(2, np.float32)},
        {"sums": np.ones((1, 2))},
        {"sums": np.ones(2), "more": np.ones(2)},
        {"delta": np.ones(2, np.float32), "weight": np.ones(1)},
        {},
    ],
)
def test_what_is_no_answer_in_the_clear_does_not_leave_in_the_clear(formed):
    """Above all a quantised vector, which is readable before its masks are on it."""
    with pytest.raises(PrivacyError, match="no answer to this request"):
        outbound.sent(formed, None)


@pytest.mark.parametrize("name", ["words", "sums"])
def test_an_answer_in_the_clear_is_not_masked(name):
    masking = SimpleNamespace(accepted=SimpleNamespace(answer=lambda _: pytest.fail("masked")))
    with pytest.raises(PrivacyError, match="no answer to this request"):
        outbound.sent({name: np.ones(2)}, masking)
