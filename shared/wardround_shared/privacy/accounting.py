"""How much privacy a history of noisy steps has spent.

One mechanism: the Gaussian one on a Poisson sample (a sample rate of 1 is the plain Gaussian
mechanism), any mix of noise and rates. Two accountants, both upper bounds:

- PRV: numerical composition of privacy loss random variables (Gopi et al. 2021, "Numerical
  composition of differential privacy"). Nearly tight.
- RDP: Renyi differential privacy (Mironov et al. 2019, "Renyi differential privacy of the sampled
  Gaussian mechanism"; conversion by Balle et al. 2020, theorem 21). Simpler, with next to no
  numerics, and mostly a tenth above the first.

Both are reported, and the larger one counts: against a study's epsilon, and against a site's cap.
The central limit accountant (GDP) is no bound and has no place here. Neighbours differ in the
presence of one unit (add or remove).
"""

import itertools
import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from wardround_shared.errors import PrivacyError

# Any orders give a valid bound; small ones matter for large epsilons, large ones for small.
_ORDERS = (*(1 + x / 8 for x in range(2, 25)), *range(4, 65), 80, 96, 128, 192, 256, 512)

# The Fourier transform of the PRV accountant rounds in float64; below, that error would show.
_SMALLEST_PRV_DELTA = 1e-10
_PRV_RELATIVE_ERROR = 0.005
_PRV_LARGEST_ERROR = 0.02
_PRV_GRID_POINTS = 400_000
# Of the RDP bound: where the grid's error would be more, PRV has nothing to say.
_PRV_LARGEST_SHARE = 0.25

# Of the noise multiplier that is solved for.
_TOLERANCE = 1e-3
_LEAST, _MOST = 0.05, 1e6


@dataclass(frozen=True, kw_only=True)
class SampledGaussian:
    """`steps` equal steps of DP-SGD.

    Attributes:
        noise_multiplier: noise standard deviation over the clipping norm; 0 only with 0 steps.
        sample_rate: probability in (0, 1] that a unit takes part in a step.
        steps: number of steps.

    Raises:
        PrivacyError: a value that is no such thing, or that would protect nobody.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        _check_rate(self.sample_rate)
        if self.steps or self.noise_multiplier != 0:
            _check_positive("noise multiplier", self.noise_multiplier)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Epsilon by either accountant, at the delta that was asked for.

    Attributes:
        prv: NaN where its numerics do not hold.
        rdp: always there.
    """

    prv: float
    rdp: float

    @property
    def epsilon(self) -> float:
        """The larger of both, which is what counts; a PRV bound that failed does not."""
        return self.rdp if math.isnan(self.prv) else max(self.prv, self.rdp)


def epsilon_spent(history: Sequence[SampledGaussian], delta: float) -> Spent:
    """Epsilon of everything in `history` together; the order plays no part.

    Raises:
        PrivacyError: delta is no probability below 1, or neither accountant finds a bound.
    """
    _check_delta(delta)
    return _spent(_merged(history), delta)


def epsilon_by_rdp(history: Sequence[SampledGaussian], delta: float) -> float:
    """The RDP bound alone, in well under a millisecond; a bound by itself.

    Raises:
        PrivacyError: delta is no probability below 1, or there is no bound.
    """
    _check_delta(delta)
    return _require_bound(_rdp(_merged(history), delta))


def noise_multiplier_for(*, epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The smallest noise multiplier that spends at most epsilon by both, to a thousandth.

    No steps need no noise: 0. Where even very little noise would do, 0.05 is the least.

    Raises:
        PrivacyError: a value out of range, or an epsilon that no noise reaches.
    """
    _check_plan(epsilon, delta, sample_rate, steps)
    return _solve(float(epsilon), float(delta), float(sample_rate), int(steps))


def require_reachable(*, epsilon: float, delta: float, sample_rate: float, steps: int) -> None:
    """Refuse what `noise_multiplier_for` would refuse, at once unless epsilon is very small.

    Raises:
        PrivacyError: a value out of range, or an epsilon that no noise reaches.
    """
    _check_plan(epsilon, delta, sample_rate, steps)
    if _bound_under_most_noise(delta, steps) > epsilon:
        noise_multiplier_for(epsilon=epsilon, delta=delta, sample_rate=sample_rate, steps=steps)


def _check_plan(epsilon: float, delta: float, sample_rate: float, steps: int) -> None:
    _check_positive("epsilon", epsilon)
    _check_delta(delta)
    _check_rate(sample_rate)
    _check_steps(steps)


def _bound_under_most_noise(delta: float, steps: int) -> float:
    """Epsilon by RDP under the most noise that a search is sure to try, sampling left out.

    In closed form (RDP of the Gaussian mechanism: Mironov 2017, corollary 3), without Opacus; a
    sample rate below 1 only lowers it.
    """
    orders = np.array(_ORDERS)
    rdp = steps * orders / (2.0 * (_MOST / 2.0) ** 2)
    converted = rdp + np.log1p(-1.0 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1.0)
    return max(float(converted.min()), 0.0)


@lru_cache(maxsize=256)
def _solve(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    if steps == 0:
        return 0.0

    def rdp(multiplier: float) -> float:
        return _rdp(((multiplier, sample_rate, steps),), delta)

    def both(multiplier: float) -> float:
        return _spent(((multiplier, sample_rate, steps),), delta).epsilon

    high = _narrow(rdp, epsilon, _LEAST, _enough(rdp, epsilon, 0.5), tolerance=_TOLERANCE)
    if both(high) <= epsilon:
        return high
    # PRV lies above RDP only where its own grid is coarse, at very small epsilons.
    return _narrow(both, epsilon, high, _enough(both, epsilon, high), tolerance=_TOLERANCE)


def _enough(spent: Callable[[float], float], epsilon: float, start: float) -> float:
    """The first doubling of `start` that spends at most epsilon."""
    while spent(start) > epsilon:
        start *= 2.0
        if start > _MOST:
            raise PrivacyError(
                f"No noise is enough for epsilon {epsilon} over so many steps; raise "
                "privacy.epsilon or plan fewer rounds."
            )
    return start


def _narrow(
    spent: Callable[[float], float], epsilon: float, low: float, high: float, tolerance: float
) -> float:
    """The least multiplier in low..high, up to the tolerance; it always spends at most epsilon.

    Epsilon is nearly a power of the multiplier, so the crossing is guessed on a line through the
    logarithms and then enclosed from both sides; every third time the middle is taken instead.
    """
    if spent(low) <= epsilon:
        return low
    for attempt in itertools.count():
        if high / low <= 1.0 + tolerance:
            return high
        middle = math.sqrt(low * high)
        if attempt % 3 < 2:
            above, below = (math.log(max(spent(x), sys.float_info.min)) for x in (low, high))
            share = (above - math.log(epsilon)) / (above - below) if above > below else 0.5
            side = 1.0 + tolerance / 3.0 * (1 if attempt % 3 == 0 else -1)
            guess = low * (high / low) ** share * side
            middle = guess if low < guess < high else middle
        if spent(middle) > epsilon:
            low = middle
        else:
            high = middle
    raise AssertionError  # the count above has no end


_History = tuple[tuple[float, float, int], ...]


@lru_cache(maxsize=1024)
def _spent(history: _History, delta: float) -> Spent:
    if not history:
        return Spent(prv=0.0, rdp=0.0)
    rdp = _require_bound(_rdp(history, delta))
    return Spent(prv=_prv(history, delta, rdp), rdp=rdp)


def _merged(history: Sequence[SampledGaussian]) -> _History:
    """Equal steps together, in an order that does not depend on theirs."""
    steps: Counter[tuple[float, float]] = Counter()
    for entry in history:
        if entry.steps:
            steps[entry.noise_multiplier, entry.sample_rate] += entry.steps
    return tuple(sorted((*kind, n) for kind, n in steps.items()))


def _require_bound(rdp: float) -> float:
    if not math.isfinite(rdp):
        raise PrivacyError(
            "The privacy spent cannot be bounded; the noise is far too small for so many steps."
        )
    return rdp


def _rdp(history: _History, delta: float) -> float:
    """Epsilon by RDP; infinite if it can't be computed."""
    if not history:
        return 0.0
    from opacus.accountants.analysis import rdp as opacus_rdp  # noqa: PLC0415  # takes a second

    total = np.zeros(len(_ORDERS))
    for multiplier, rate, steps in history:
        total += steps * np.array(_rdp_of_one_step(multiplier, rate))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # The best order may be the first or last of ours; the bound holds all the same.
            warnings.simplefilter("ignore")
            epsilon, _ = opacus_rdp.get_privacy_spent(orders=_ORDERS, rdp=total, delta=delta)
    except (ValueError, ArithmeticError):
        return math.inf
    return math.inf if math.isnan(epsilon) else max(float(epsilon), 0.0)


@lru_cache(maxsize=4096)
def _rdp_of_one_step(multiplier: float, rate: float) -> tuple[float, ...]:
    """RDP at each of our orders; infinite where it can't be computed."""
    from opacus.accountants.analysis import rdp as opacus_rdp  # noqa: PLC0415

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = opacus_rdp.compute_rdp(
                q=rate, noise_multiplier=multiplier, steps=1, orders=list(_ORDERS)
            )
    except (ValueError, ArithmeticError):
        return (math.inf,) * len(_ORDERS)
    return tuple(math.inf if math.isnan(value) else float(value) for value in np.array(found))


def _prv(history: _History, delta: float, rdp: float) -> float:
    """Epsilon by PRV; NaN if its numerics do not hold."""
    from opacus.accountants import PRVAccountant  # noqa: PLC0415

    if delta < _SMALLEST_PRV_DELTA:
        return math.nan
    # The bound is this much above the truth. Gopi et al.'s grid is as fine as it takes, which
    # for very small epsilons over many steps would be too fine to compute with.
    steps = sum(n for _, _, n in history)
    mesh = 2.0 * (rdp + 3.0) / _PRV_GRID_POINTS
    error = max(
        min(rdp * _PRV_RELATIVE_ERROR, _PRV_LARGEST_ERROR),
        mesh * math.sqrt(steps * math.log(12_000.0 / delta) / 2.0),
    )
    if error >= min(1.0, _PRV_LARGEST_SHARE * rdp):
        return math.nan
    accountant = PRVAccountant()
    accountant.history = list(history)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            epsilon = float(accountant.get_epsilon(delta, eps_error=error))
    except (ValueError, RuntimeError, ArithmeticError, IndexError, MemoryError):
        return math.nan
    return epsilon if math.isfinite(epsilon) and epsilon > 0.0 else math.nan


def _check_positive(name: str, value: float) -> None:
    # A subnormal number passes "> 0" and vanishes in the arithmetic that follows.
    if not (math.isfinite(value) and value >= sys.float_info.min):
        raise PrivacyError(f"The {name} must be a positive, finite number, not {value}.")


def _check_delta(delta: float) -> None:
    _check_positive("delta", delta)
    if delta >= 1.0:
        raise PrivacyError(f"The delta must be below 1, not {delta}.")


def _check_rate(sample_rate: float) -> None:
    _check_positive("sample rate", sample_rate)
    if sample_rate > 1.0:
        raise PrivacyError(f"The sample rate must be at most 1, not {sample_rate}.")


def _check_steps(steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise PrivacyError(f"The steps must be a whole number of at least 0, not {steps}.")
