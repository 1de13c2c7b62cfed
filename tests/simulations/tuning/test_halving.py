import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_simulations.tuning.halving import best_of, rungs


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        (2, [(2, 1)]),
        (3, [(3, 1)]),
        (6, [(6, 3), (2, 1)]),
        (9, [(9, 3), (3, 1)]),
        (20, [(20, 9), (7, 3), (3, 1)]),
    ],
)
def test_each_rung_has_a_third_of_the_settings_and_three_times_the_rounds(trials, expected):
    assert [(r.settings, r.divisor) for r in rungs(trials, halving=True)] == expected
    assert [(r.settings, r.divisor) for r in rungs(trials, halving=False)] == [(trials, 1)]


@given(trials=st.integers(2, 300), planned=st.integers(1, 100))
def test_the_last_rung_has_all_rounds_and_somebody_in_it(trials, planned):
    *before, last = rungs(trials, halving=True)
    assert last.rounds(planned) == planned
    assert last.settings >= 2
    assert all(1 <= rung.rounds(planned) <= planned for rung in before)


def test_the_best_are_kept_and_one_without_a_score_comes_last():
    scores = {0: 0.5, 1: None, 2: 0.9, 3: 0.7, 4: 0.9}
    assert best_of(scores, 2, always=[]) == [2, 4]
    assert best_of(scores, 2, always=[0]) == [0, 2]
    assert best_of(scores, 1, always=[]) == [2]
    assert best_of(scores, 5, always=[])[:] == [0, 1, 2, 3, 4]
