"""What was known before the prediction, laid out in time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wardround_client.sources.fhir.timeline import over_time

TODAY = 1000
NAN = np.nan


def laid_out(*values, length=4, features=2):
    return over_time(
        np.array(values, dtype=float).reshape(-1, 4), TODAY, features=features, length=length
    )


def test_the_last_days_come_last_and_today_is_the_end():
    record = laid_out((900, 900, 0, 5.0), (990, 990, 1, 7.0))
    np.testing.assert_array_equal(
        record, [[NAN, 5, NAN, NAN], [NAN, NAN, 7, NAN], [NAN, -100, -10, 0]]
    )


def test_a_longer_record_keeps_its_last_days():
    record = laid_out(*((day, day, 0, day) for day in range(900, 960)), length=3, features=1)
    np.testing.assert_array_equal(record, [[958, 959, NAN], [-42, -41, 0]])


def test_what_becomes_known_today_or_later_is_not_there():
    assert laid_out((1000, 1000, 0, 5.0), (1003, 900, 0, 6.0)) is None
    record = laid_out((1003, 900, 0, 6.0), (950, 950, 0, 1.0), (1000, 999, 1, 1.0))
    np.testing.assert_array_equal(record[:, 2], [1, NAN, -50])
    assert np.isnan(record[:, :2]).all()


def test_values_of_one_day_become_their_mean_and_a_repeated_one_counts_once():
    record = laid_out(*[(900, 900, 0, 4.0)] * 3, (901, 900, 0, 4.0), (900, 900, 0, 6.0))
    assert record[0, 2] == 5.0


@given(st.randoms(use_true_random=False), st.integers(1, 30), st.integers(2, 9))
def test_the_order_of_the_values_does_not_show(random, count, length):
    values = []
    for _ in range(count):
        day = random.randint(900, 1010)
        values.append((day + random.choice((0, 0, 40)), day, random.randrange(2), random.random()))
    shuffled = random.sample(values, count)
    np.testing.assert_array_equal(
        laid_out(*values, length=length), laid_out(*shuffled, length=length)
    )
