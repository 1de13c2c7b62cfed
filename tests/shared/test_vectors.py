"""What is quantised and summed comes back as the sum it stands for."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_shared.errors import PrivacyError
from wardround_shared.evaluation import count, counts_length
from wardround_shared.messages import CLASS_COUNTS, EVALUATE, STATISTICS
from wardround_shared.secure_aggregation import add_vector, dequantise, quantise
from wardround_shared.study import load_study
from wardround_shared.vectors import (
    sums_layout,
    sums_parts,
    sums_total,
    update_layout,
    update_parts,
    update_sum,
)
from wardround_simulations.options import find_study

STUDY = load_study(find_study("heart-disease"), ["privacy.mechanism=none"])


def _summed(layout, vectors):
    total = np.zeros(layout.words, np.uint32)
    for parts in vectors:
        words = np.empty(layout.words, np.uint32)
        quantise(parts, layout, os.urandom, words)
        add_vector(total, words, wide=layout.wide)
    return dequantise(total, layout, len(vectors))


finite = st.floats(-1e15, 1e15, allow_nan=False)


@given(st.lists(st.lists(finite, min_size=3, max_size=3), min_size=1, max_size=6))
def test_statistics_of_any_size_are_summed_exactly(rows):
    layout = sums_layout(STUDY, STATISTICS, length=3, sites=6)
    vectors = [sums_parts(STATISTICS, np.array(row)) for row in rows]
    total = sums_total(STATISTICS, _summed(layout, vectors))
    exact = [sum(int(v * 2.0**64) for v in column) / 2**64 for column in zip(*rows, strict=True)]
    np.testing.assert_allclose(total, exact, rtol=1e-15, atol=2.0**-60)


def test_a_statistic_beyond_the_range_is_refused():
    with pytest.raises(PrivacyError, match="too large"):
        sums_parts(STATISTICS, np.array([2.0**81]))


def test_metric_counts_are_exact_but_for_the_loss():
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(4):
        scores = rng.dirichlet([1, 1], size=50)
        counts.append(count(scores, rng.integers(0, 2, size=50)))
    layout = sums_layout(STUDY, EVALUATE, length=counts_length(2), sites=4)
    total = sums_total(EVALUATE, _summed(layout, [sums_parts(EVALUATE, c) for c in counts]))
    plain = np.sum(counts, axis=0)
    np.testing.assert_array_equal(np.delete(total, 1), np.delete(plain, 1))
    assert total[1] == pytest.approx(plain[1], abs=0.02)


def test_class_counts_are_exact():
    layout = sums_layout(STUDY, CLASS_COUNTS, length=2, sites=3)
    vectors = [sums_parts(CLASS_COUNTS, np.array([n, 2.0 * n])) for n in (5.0, 7.0, 0.0)]
    np.testing.assert_array_equal(sums_total(CLASS_COUNTS, _summed(layout, vectors)), [12, 24])


def test_updates_are_summed_and_what_is_beyond_the_bound_is_clamped_and_counted():
    counts = np.zeros(counts_length(2))
    layout = update_layout(STUDY, parameters=3, sites=3)
    deltas = [np.array(d, np.float32) for d in ([0.5, -0.25, 7.0], [0.1, 0.2, -0.3])]
    vectors = [
        update_parts(STUDY, delta=deltas[0], weight=10, counts=counts),
        update_parts(STUDY, delta=deltas[1], weight=30, counts=counts),
    ]
    total = update_sum(_summed(layout, vectors))
    assert total.weight == 40
    assert total.clamped == 1
    step = 2 / layout.scale(layout.segments[0])
    np.testing.assert_allclose(total.delta.values(), [8.0, 3.5, 10.0 - 9.0], atol=step)
