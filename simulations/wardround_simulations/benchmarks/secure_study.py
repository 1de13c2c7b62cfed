"""What secure aggregation adds to a whole simulated study."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from wardround_simulations.benchmarks.images import speed_study, write_images
from wardround_simulations.benchmarks.simulation import Stopwatch
from wardround_simulations.federation import simulate
from wardround_simulations.settings import Settings

SITES = 10
ROUNDS = 5


def bench_secure_study(*, repeats: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """The `pneumonia` CNN at 10 sites with secure aggregation off and on, alternating.

    Seconds are medians from the answer to the first message until the run folder is complete, on
    two workers; the ratio is the median of the ratios within a repeat.
    """
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as name:
        folder = Path(name)
        write_images(folder)
        for repeat in range(repeats):
            for secure, taken in seconds.items():
                out = folder / f"run-{repeat}-{secure}"
                taken.append(_seconds(folder, out, secure=secure, rounds=rounds))
    ratios = [on / off for off, on in zip(seconds[False], seconds[True], strict=True)]
    return {
        "sites": SITES,
        "rounds": rounds,
        "plain_s": statistics.median(seconds[False]),
        "secure_s": statistics.median(seconds[True]),
        "secure_over_plain": statistics.median(ratios),
    }


def _seconds(folder: Path, out: Path, *, secure: bool, rounds: int) -> float:
    watch = Stopwatch()
    settings = Settings(
        study=speed_study(rounds=rounds, secure=secure, minimum_sites=3),
        data=folder,
        sites=SITES,
        backend="process",
        workers=2,
        device="cpu",
        out=out,
        seed=0,
        cache=folder / "cache",
    )
    simulate(settings, watch)
    return time.perf_counter() - watch.joined_at
