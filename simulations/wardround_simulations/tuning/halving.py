"""Which settings are tried for how long: successive halving.

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization"
(2016): all settings are tried with a share of their rounds, the best third of them again with three
times as many, until the last have all their rounds. Pure random search (Bergstra and Bengio 2012)
is the case of one rung.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FACTOR = 3
"""Settings of a rung over those of the next, and rounds of the next over those of a rung."""

_FEWEST = 2  # that reach the last rung


@dataclass(frozen=True, kw_only=True)
class Rung:
    """So many settings, each with `1 / divisor` of its rounds."""

    settings: int
    divisor: int

    def rounds(self, planned: int) -> int:
        """Of settings that ask for so many in all."""
        return max(1, math.ceil(planned / self.divisor))


def rungs(trials: int, *, halving: bool) -> tuple[Rung, ...]:
    """The rungs for so many settings; one without halving, or where they are too few for more."""
    sizes = [trials]
    while halving and sizes[-1] > FACTOR and len(sizes) < 3:
        sizes.append(max(_FEWEST, math.ceil(sizes[-1] / FACTOR)))
    last = len(sizes) - 1
    return tuple(
        Rung(settings=size, divisor=FACTOR ** (last - place)) for place, size in enumerate(sizes)
    )


def best_of(scores: Mapping[int, float | None], kept: int, *, always: Sequence[int]) -> list[int]:
    """The trials with the highest scores, ties by number; those in `always` are among them.

    A trial without a score comes last.
    """
    ordered = sorted(scores, key=lambda one: (-(_score(scores[one])), one))
    first = [one for one in always if one in scores]
    return sorted([*first, *(one for one in ordered if one not in first)][:kept])


def _score(score: float | None) -> float:
    return -math.inf if score is None else score
