"""The running sum is exact and does not depend on the order of arrival."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_server.aggregation import FRACTION_BITS, RunningSum
from wardround_shared.errors import ProtocolError
from wardround_shared.messages import Update


def _updates(seed: int, sites: int) -> list[Update]:
    rng = np.random.default_rng(seed)
    return [
        Update(
            delta=(rng.normal(size=7) * 10.0 ** rng.integers(-6, 3)).astype(np.float32),
            weight=float(rng.integers(1, 5000)),
            counts=rng.integers(0, 1000, size=3).astype(float),
        )
        for _ in range(sites)
    ]


@given(seed=st.integers(0, 2**32), sites=st.integers(1, 20))
def test_any_order_of_arrival_gives_the_same_bits(seed, sites):
    updates = _updates(seed, sites)
    order = np.random.default_rng(seed).permutation(sites)
    totals = []
    for arranged in (updates, [updates[i] for i in order]):
        running = RunningSum(parameters=7, counts=3, sites=sites)
        for update in arranged:
            running.add(update)
        totals.append(running.total())
    np.testing.assert_array_equal(totals[0].delta.values(), totals[1].delta.values())
    np.testing.assert_array_equal(totals[0].counts, totals[1].counts)
    assert totals[0].weight == totals[1].weight


@given(seed=st.integers(0, 2**32), sites=st.integers(1, 20))
def test_the_sum_is_exact_up_to_the_rounding_of_each_update(seed, sites):
    updates = _updates(seed, sites)
    running = RunningSum(parameters=7, counts=3, sites=sites)
    for update in updates:
        running.add(update)
    total = running.total()
    plain = np.sum([u.delta.astype(float) for u in updates], axis=0)
    assert np.abs(total.delta.values() - plain).max() <= sites * 2.0 ** -(FRACTION_BITS + 1) + 1e-12
    assert total.weight == sum(u.weight for u in updates)
    assert total.sites == sites


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_cannot_be_added_exactly_leaves_the_sum_as_it_was(value):
    running = RunningSum(parameters=2, counts=1, sites=2)
    good = Update(delta=np.ones(2, np.float32), weight=1.0, counts=np.ones(1))
    running.add(good)
    bad = Update(delta=np.array([0, value], np.float32), weight=1.0, counts=np.ones(1))
    with pytest.raises(ProtocolError, match="not finite or too large"):
        running.add(bad)
    assert running.total().sites == 1
    np.testing.assert_array_equal(running.total().delta.values(), np.ones(2))


@pytest.mark.parametrize("place", [0, 70_000, 149_999])
def test_a_value_in_any_block_can_refuse_an_update_before_any_is_added(place):
    running = RunningSum(parameters=150_000, counts=1, sites=2)
    delta = np.ones(150_000, np.float32)
    delta[place] = np.nan
    with pytest.raises(ProtocolError, match="not finite"):
        running.add(Update(delta=delta, weight=1.0, counts=np.ones(1)))
    assert not running.total().delta.values().any()


def test_a_long_update_is_added_like_its_values_one_by_one():
    delta = np.random.default_rng(0).normal(size=150_000).astype(np.float32)
    running = RunningSum(parameters=150_000, counts=1, sites=2)
    running.add(Update(delta=delta, weight=3.0, counts=np.ones(1)))
    whole = np.rint(delta.astype(float) * 2.0**FRACTION_BITS).astype(np.int64)
    np.testing.assert_array_equal(running.total().delta.counts, whole)
    assert running.total().weight == 3.0


def test_overflow_is_impossible_even_if_every_site_sends_the_largest_value():
    sites = 50
    running = RunningSum(parameters=1, counts=0, sites=sites)
    largest = np.nextafter(np.float32(2**30 / sites), np.float32(0))
    for _ in range(sites):
        running.add(Update(delta=np.array([largest]), weight=0.0, counts=np.zeros(0)))
    assert running.total().delta.values()[0] == pytest.approx(float(largest) * sites, rel=1e-9)


def test_a_wrong_length_or_one_update_too_many_is_refused():
    running = RunningSum(parameters=2, counts=1, sites=1)
    with pytest.raises(ProtocolError, match="3 parameters"):
        running.add(Update(delta=np.ones(3, np.float32), weight=1.0, counts=np.ones(1)))
    running.add(Update(delta=np.ones(2, np.float32), weight=1.0, counts=np.ones(1)))
    with pytest.raises(ProtocolError, match="More updates"):
        running.add(Update(delta=np.ones(2, np.float32), weight=1.0, counts=np.ones(1)))
