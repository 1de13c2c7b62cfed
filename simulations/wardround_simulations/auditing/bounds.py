"""How large epsilon must at least be, if so many guesses about membership were right.

One training run, m canaries, each in it by a coin of its own (Steinke, Nasr and Jagielski 2023,
"Privacy auditing with one (1) training run"). Of an (epsilon, delta) private mechanism nobody can
guess r of the coins better than theorem 5.2 allows; whoever does has shown that epsilon is larger.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

GUESSES = ((25, 0), (16, 16), (8, 8), (4, 4))
"""Sets of guesses, fixed before any score is seen. (a, b): one in a canaries, those with the
highest scores, are guessed to be in, and one in b, those with the lowest, to be out; 0 for none."""

_PRECISION = 1e-4
_LARGEST = 50.0


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """The set of guesses that shows the most.

    Attributes:
        made: number of guesses r.
        correct: how many were right.
        bound: what they show: epsilon is at least so large, at the confidence asked for.
    """

    made: int
    correct: int
    bound: float


def chance(*, correct: int, made: int, canaries: int, epsilon: float, delta: float) -> float:
    """Bound on the chance of so many right guesses, were the mechanism (epsilon, delta) private.

    Theorem 5.2 of Steinke et al., the form of their appendix D: a binomial tail, as if each guess
    were about an epsilon private randomised response, and what delta may add to it.

    Args:
        correct: right guesses v.
        made: guesses r; of the other canaries nothing is said.
        canaries: m.
        epsilon: under test.
        delta: under test.
    """
    right = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, made, right))
    # Chance of v - i to v - 1 right guesses, over i, at its largest.
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), made, right))
    steepest = float((below / np.arange(1, correct + 1)).max(initial=0.0))
    return min(1.0, tail + 2.0 * canaries * delta * steepest)


def lower_bound(
    *, correct: int, made: int, canaries: int, delta: float, confidence: float
) -> float:
    """The largest epsilon that so many right guesses refute; 0 if they refute none.

    Args:
        correct: right guesses.
        made: guesses.
        canaries: all of them, with those about which nothing was guessed.
        delta: of the claim.
        confidence: chance, at least, with which the bound is below the true epsilon.
    """

    def refuted(epsilon: float) -> bool:
        likely = chance(correct=correct, made=made, canaries=canaries, epsilon=epsilon, delta=delta)
        return likely <= 1.0 - confidence

    low, high = 0.0, _LARGEST
    if not refuted(low):
        return 0.0
    while high - low > _PRECISION:
        middle = (low + high) / 2.0
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def best_guesses(
    scores: NDArray[np.float64], included: NDArray[np.bool_], *, delta: float, confidence: float
) -> Guesses:
    """The lower bound over all sets in `GUESSES`, corrected for choosing among them (Bonferroni).

    Args:
        scores: float64 [m]; higher where a canary seems to be in.
        included: bool [m]; the truth.
        delta: of the claim.
        confidence: of the bound over all sets together.
    """
    m = len(scores)
    # From the highest score down. Ties fall by number, which the coins had no part in.
    right_if_in = included[np.argsort(-scores, kind="stable")]
    found = []
    for top, bottom in _sizes(m):
        correct = int(right_if_in[:top].sum() + (~right_if_in[m - bottom :]).sum())
        found.append(_guesses(correct, top + bottom, m, delta, confidence))
    return max(found, key=lambda guesses: guesses.bound)


def largest_bound(canaries: int, *, delta: float, confidence: float) -> float:
    """What `best_guesses` would show if every guess were right."""
    return max(
        _guesses(made, made, canaries, delta, confidence).bound
        for made in (top + bottom for top, bottom in _sizes(canaries))
    )


def _sizes(canaries: int) -> Sequence[tuple[int, int]]:
    return [(canaries // a, canaries // b if b else 0) for a, b in GUESSES]


def _guesses(correct: int, made: int, canaries: int, delta: float, confidence: float) -> Guesses:
    shared = 1.0 - (1.0 - confidence) / len(GUESSES)
    return Guesses(
        made=made,
        correct=correct,
        bound=lower_bound(
            correct=correct, made=made, canaries=canaries, delta=delta, confidence=shared
        ),
    )
