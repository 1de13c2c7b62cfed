"""What a person sees of an audit: how far it has got, and what came out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.progress import track

from wardround_shared.terminal import say


def rounds_on(stream: TextIO) -> Callable[[Sequence[int]], Iterable[int]]:
    """Passes the numbers of the rounds through, and tells the stream."""

    def bar(numbers: Sequence[int]) -> Iterable[int]:
        return track(numbers, "rounds", console=Console(file=stream))

    def lines(numbers: Sequence[int]) -> Iterator[int]:
        for number in numbers:
            yield number
            say(f"round {number} of {len(numbers)}", stream)

    return bar if stream.isatty() else lines


def lines_of(result: dict[str, Any]) -> list[str]:
    """An audit's result as a person reads it."""
    percent = f"{100 * result['confidence']:.0f} %"
    found = [
        f"{_share(estimate)} at {float(rate):.1%} false positives"
        for rate, estimate in result["tpr_at_fpr"].items()
    ]
    return [
        *(f"note: {note}" for note in result["notes"]),
        (
            f"{result['study']}, site {result['site']}: {result['included']} of "
            f"{result['canaries']} canaries included, each a {result['unit']}; "
            f"{result['rounds']} rounds of {result['steps_per_round']} steps"
        ),
        f"membership ({percent} intervals): AUROC {_share(result['auroc'])}",
        f"members found: {', '.join(found)}",
        (
            f"epsilon at delta {result['delta']:g}: claimed {result['epsilon_claimed']:.2f}, at "
            f"least {result['epsilon_lower_bound']:.2f} at {percent} confidence (this audit could "
            f"have shown up to {result['largest_bound']:.2f})"
        ),
        f"verdict: {result['verdict']}: {result['why']}",
        f"time: {result['seconds']:.1f} s",
    ]


def _share(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
