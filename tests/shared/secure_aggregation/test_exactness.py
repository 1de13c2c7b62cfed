"""The sum is the sum: whoever drops out, whenever, as long as the threshold holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_cohort import Cohort, names, ring_sum

from wardround_shared.secure_aggregation.faults import ThresholdError


@st.composite
def histories(draw):
    """A cohort and up to three rounds of who is silent in which exchange."""
    sites = draw(st.integers(3, 12))
    # Usually few are silent, so that most rounds can be finished; sometimes anyone.
    most = draw(st.sampled_from([0, 1, 1, 1, sites // 3, sites]))
    silent = st.sets(st.sampled_from(names(sites)), max_size=most)
    rounds = draw(st.lists(st.tuples(silent, silent, silent), min_size=1, max_size=3))
    return sites, draw(st.tuples(silent, silent)), rounds


@settings(max_examples=40)
@given(
    history=histories(),
    length=st.integers(1, 40),
    ring_bits=st.sampled_from([32, 32, 16]),
    seed=st.integers(0, 2**32),
)
def test_every_finished_round_gives_the_sum_of_the_survivors_bit_for_bit(
    history, length, ring_bits, seed
):
    sites, setup, rounds = history
    cohort = Cohort(sites, length=length, ring_bits=ring_bits, seed=seed)
    everybody, threshold = set(cohort.names), cohort.roster.threshold
    members = everybody - setup[0] - setup[1]
    if len(everybody - setup[0]) < threshold:
        with pytest.raises(ThresholdError):
            cohort.bootstrap(*setup)
    else:
        cohort.bootstrap(*setup)
    assert cohort.server.ready == (len(members) >= threshold)
    if not cohort.server.ready:
        cohort.bootstrap()
        members = everybody
    for silent in rounds:
        vectors = cohort.vectors()
        survivors = members - silent[0]
        confirmed = survivors - silent[1]
        answered = confirmed - silent[2]
        if len(answered) < threshold:
            with pytest.raises(ThresholdError):
                cohort.round(vectors, *silent)
        else:
            summed = cohort.round(vectors, *silent)
            expected = ring_sum([vectors[name] for name in survivors], cohort.layout)
            assert np.array_equal(summed.total, expected)
            assert set(summed.survivors) == survivors
            assert set(summed.dropped) == members - survivors
        if cohort.server.ready:
            members = everybody - silent[0] - silent[1]
        else:
            cohort.bootstrap()
            members = everybody


def test_equal_vectors_give_unrelated_words_from_round_to_round():
    cohort = Cohort(4, length=2000)
    same = np.arange(2000, dtype=np.uint32)
    cohort.bootstrap()
    sent = []
    for _ in range(2):
        requests = cohort.open_round()
        cohort.advertise()
        sent.append(cohort.ask_mask(cohort.names[0], requests[cohort.names[0]], same).vector)
        cohort.share()
    assert np.count_nonzero(sent[0] == sent[1]) <= 2
    assert np.count_nonzero(sent[0] == same) <= 2
    difference = (sent[0] - sent[1]).astype(np.float64) / 2**32
    assert abs(difference.mean() - 0.5) < 0.05
