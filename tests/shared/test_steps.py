"""Values made block by block are those of the whole sum, and take no memory of its size."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_shared.steps import Steps


@pytest.mark.parametrize("length", [0, 1, 65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64])
def test_every_value_is_its_count_divided_in_turn(length, kind):
    ends = np.iinfo(kind)
    counts = np.random.default_rng(length).integers(ends.min, ends.max, size=length, dtype=kind)
    summed = Steps(counts=counts, divisors=(2.0**7,)) / 3.0
    np.testing.assert_array_equal(summed.values(), counts / 2.0**7 / 3.0)
    assert len(summed) == length


@given(divisor=st.floats(1e-3, 1e6))
def test_dividing_leaves_the_sum_as_it_was(divisor):
    summed = Steps(counts=np.array([5, -7]), divisors=(4.0,))
    assert (summed / divisor).values().tolist() == [5 / 4 / divisor, -7 / 4 / divisor]
    assert summed.values().tolist() == [1.25, -1.75]


def test_no_more_than_a_block_is_held():
    summed = Steps(counts=np.ones(4_000_000, np.int32), divisors=(2.0,))
    tracemalloc.start()
    for _, block in summed.blocks():
        assert block[0] == 0.5
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 8 * 65_536
