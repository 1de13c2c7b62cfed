"""Who took part in a run, in how many rounds, and why not in the others: the truth in one line.

It is read from the roster lines, which name every invited site of every round, finished or not.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround_server.run_folder import ROSTER, read_lines
from wardround_shared.errors import RunFolderError

_UNKNOWN = "it was not asked"
_MOST_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Share:
    """One site's part in a run.

    Attributes:
        rounds: in whose sum it is.
        why_not: reason -> number of the other rounds, the commonest first.
    """

    rounds: int
    why_not: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Participation:
    """Who took part in a run.

    Attributes:
        rounds: with a sum.
        planned: rounds of the study.
        shares: of each site of the run, by name.
    """

    rounds: int
    planned: int
    shares: Mapping[str, Share]

    @property
    def sentence(self) -> str:
        """How many sites of how many took part in how many rounds of how many.

        Only sites that are in the sum of each round that has one are counted as taking part in
        them; whoever was in some is named with their number.

        >>> all_along = Share(rounds=9, why_not={"no answer in time": 1})
        >>> once = Share(rounds=1, why_not={"away": 9})
        >>> Participation(rounds=9, planned=10, shares={"a": all_along, "b": once}).sentence
        '1 of 2 sites took part in 9 of 10 rounds; b in 1 only (away).'
        >>> Participation(rounds=9, planned=10, shares={"a": all_along}).sentence
        '1 of 1 sites took part in 9 of 10 rounds.'
        """
        less = {site: one for site, one in self.shares.items() if one.rounds < self.rounds}
        there = len(self.shares) - len(less) if self.rounds else 0
        sentence = (
            f"{there} of {len(self.shares)} sites took part in {self.rounds} of {self.planned} "
            "rounds"
        )
        parts = [f"{site} in {_times(one)}" for site, one in list(less.items())[:_MOST_NAMED]]
        if len(less) > _MOST_NAMED:
            parts.append(f"{len(less) - _MOST_NAMED} more in fewer rounds or none")
        return "; ".join([sentence, *parts]) + "."

    def as_json(self) -> dict[str, Any]:
        """What stands in `summary.json` under `participation`."""
        return {
            "sentence": self.sentence,
            "sites": len(self.shares),
            "rounds": self.rounds,
            "planned": self.planned,
            "per_site": {
                site: {"rounds": one.rounds, "why_not": dict(one.why_not)}
                for site, one in self.shares.items()
            },
        }


def participation(
    lines: Iterable[Mapping[str, Any]], *, sites: Sequence[str], planned: int
) -> Participation:
    """Who took part, from the lines of `roster.jsonl`.

    Args:
        lines: one a round.
        sites: of the run, its roster if it has one; whoever else stands in a line is added.
        planned: rounds of the study.

    Raises:
        RunFolderError: a line is not a roster line.
    """
    aggregated: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {site: Counter() for site in sites}
    rounds = 0
    try:
        for line in lines:
            there = set(line["aggregated"])
            rounds += bool(there)
            aggregated.update(there)
            left = (*line.get("absent", ()), *line["dropped"])
            why = dict.fromkeys(reasons, _UNKNOWN) | {one["site"]: one["why"] for one in left}
            for site in {*why, *line["invited"]} - there:
                reasons.setdefault(site, Counter())[why.get(site, _UNKNOWN)] += 1
            for site in there:
                reasons.setdefault(site, Counter())
    except (KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"A line of {ROSTER} is damaged ({error}).") from error
    return Participation(
        rounds=rounds,
        planned=planned,
        shares={
            site: Share(rounds=aggregated[site], why_not=dict(reasons[site].most_common()))
            for site in sorted(reasons)
        },
    )


def participation_in(folder: Path, *, sites: Sequence[str], planned: int) -> Participation:
    """Who took part up to now in the run of a folder, which may still be written.

    Raises:
        RunFolderError: `roster.jsonl` is damaged.
    """
    return participation(read_lines(folder / ROSTER), sites=sites, planned=planned)


def _times(share: Share) -> str:
    """In how many rounds, and the commonest reason for the others."""
    often = f"{share.rounds} only" if share.rounds else "none"
    return f"{often} ({next(iter(share.why_not))})" if share.why_not else often
