"""`wardround bench simulation`: what the federation costs over a bare PyTorch loop."""

import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wardround_server.observer import Metrics, Observer
from wardround_server.rounds import Dropped, RosterLine
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import Study
from wardround_simulations.backends import BackendName
from wardround_simulations.benchmarks.bare import BareLoop, in_one_process, in_two_processes
from wardround_simulations.benchmarks.images import speed_study, write_images
from wardround_simulations.federation import simulate
from wardround_simulations.settings import Settings
from wardround_simulations.virtual_sites import read_cohorts

SITES = 16
ROUNDS = 5
REPEATS = 3


class Stopwatch(Observer):
    """An observer that notes when the sites have answered the first message."""

    def __init__(self) -> None:
        self.joined_at = 0.0
        self.rounds: list[float] = []

    def joined(self, sites: Sequence[str], absent: Sequence[Dropped]) -> None:
        """See `Observer`."""
        self.joined_at = time.perf_counter()

    def answered(self, round_number: int, site: str, failure: str) -> None:
        """See `Observer`."""
        if failure:
            raise AssertionError(failure)

    def closed(self, line: RosterLine, metrics_before: Metrics, seconds: float) -> None:
        """See `Observer`."""
        self.rounds.append(seconds)


def bench_simulation(*, repeats: int = REPEATS, rounds: int = ROUNDS) -> dict[str, Any]:
    """Medians over `repeats` alternating repeats, in seconds, and their ratios.

    The clock of a federation runs from the answer to its first message until its run folder is
    complete, summary included; that of the bare loops from their first batch to the last model,
    their processes being warm. `first_round_s` is a whole command, from its start to the end of
    its start-up.
    """
    backends: list[BackendName] = ["inline", "process"]
    if importlib.util.find_spec("ray") is not None:
        backends.append("ray")
    study = speed_study(rounds=rounds)
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as name:
        folder = Path(name)
        write_images(folder)
        settings = _settings(study, folder, "inline")
        loop = _bare_loop(settings)
        seconds: dict[str, list[float]] = {}
        for repeat in range(repeats):
            seconds.setdefault("bare1", []).append(in_one_process(loop)[0])
            seconds.setdefault("inline", []).append(_federation(study, folder, "inline", repeat))
            seconds.setdefault("bare2", []).append(in_two_processes(loop))
            for backend in backends[1:]:
                seconds.setdefault(backend, []).append(_federation(study, folder, backend, repeat))
        first_round = first_round_seconds(folder)
    medians = {f"{name}_s": statistics.median(values) for name, values in seconds.items()}
    result: dict[str, Any] = dict(medians)
    result["inline_over_bare1"] = _ratio(seconds["inline"], seconds["bare1"])
    result["process_over_bare2"] = _ratio(seconds["process"], seconds["bare2"])
    if "ray" in seconds:
        result["ray_over_bare2"] = _ratio(seconds["ray"], seconds["bare2"])
    result |= {
        "first_round_s": first_round,
        "sites": SITES,
        "rounds": rounds,
        "repeats": repeats,
        "threads_per_process": 1,
    }
    return result


def first_round_seconds(data: Path) -> float:
    """Seconds from the command `wardround simulate` to the start of its first round."""
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as name:
        command = [
            *(sys.executable, "-m", "wardround_simulations", "simulate", "pneumonia"),
            *("--data", str(data), "--sites", str(SITES), "--rounds", "1", "--workers", "2"),
            *("--out", str(Path(name) / "run"), "--cache", str(data / "cache")),
            *("--set", "privacy.mechanism=none", "--set", "training.average-last=1", "--json"),
        ]
        started = time.perf_counter()
        # The program runs itself; nothing of the command comes from outside.
        with subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if "sites:" in line:
                    seconds = time.perf_counter() - started
                    process.stderr.read()
                    return seconds
        raise AssertionError("the command ended before its first round")


def _settings(
    study: Study, folder: Path, backend: BackendName, out: Path | None = None
) -> Settings:
    return Settings(
        study=study,
        data=folder,
        sites=SITES,
        backend=backend,
        workers=2,
        device="cpu",
        out=out,
        seed=0,
        cache=folder / "cache",
    )


def _federation(study: Study, folder: Path, backend: BackendName, repeat: int) -> float:
    watch = Stopwatch()
    simulate(_settings(study, folder, backend, folder / f"{backend}-{repeat}"), watch)
    return time.perf_counter() - watch.joined_at


def _bare_loop(settings: Settings) -> BareLoop:
    """The same cohorts and preprocessing constants as the federation's."""
    cohorts = read_cohorts(settings).cohorts
    recipe = Recipe(settings.study)
    fitted: tuple[Any, ...] = ()
    for _ in recipe.needs_fit:
        sums = sum(
            recipe.statistics(cohort.arrays, fitted, index=cohort.train) for cohort in cohorts
        )
        fitted = (*fitted, recipe.fit(np.asarray(sums), fitted))
    return BareLoop(
        study=settings.study,
        cohorts=tuple(cohort.folder for cohort in cohorts),
        fitted=fitted,
        seed=settings.seed,
    )


def _ratio(ours: Sequence[float], bare: Sequence[float]) -> float:
    """Median of the ratios within each repeat: the machine's drift cancels."""
    return statistics.median(a / b for a, b in zip(ours, bare, strict=True))
