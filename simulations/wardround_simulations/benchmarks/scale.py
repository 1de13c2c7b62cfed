"""`wardround bench scale`: more virtual sites on the same total of data."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from wardround_simulations.benchmarks.images import write_images

SITES = (10, 100, 1000)
EXAMPLES = 8000
"""Divisible by every number of sites: each site has at least eight images."""


def bench_scale(*, sites: tuple[int, ...] = SITES, rounds: int = 2) -> dict[str, Any]:
    """One row for each number of sites, each in a process of its own so that memory is its own.

    `overhead_per_site_ms` is everything outside training and evaluation, for one site in one
    round; `main_peak_mb` and `peak_rss_mb` the peak memory of the main process and of all.
    """
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as name:
        folder = Path(name)
        write_images(folder, examples=EXAMPLES)
        rows = [_row(folder, count, rounds) for count in sites]
    return {"rows": rows, "examples": EXAMPLES, "rounds": rounds, "workers": 2}


def _row(folder: Path, sites: int, rounds: int) -> dict[str, Any]:
    out = folder / f"run-{sites}"
    command = [
        *(sys.executable, "-m", "wardround_simulations", "simulate", "pneumonia"),
        *("--data", str(folder), "--sites", str(sites), "--rounds", str(rounds)),
        *("--workers", "2", "--out", str(out), "--cache", str(folder / "cache"), "--json"),
        *("--set", "privacy.mechanism=none", "--set", "training.average-last=1"),
        # A complete graph is made for dozens of hospitals, not for a thousand virtual sites.
        *("--set", "aggregation.secure=false"),
    ]
    # The program runs itself; nothing of the command comes from outside.
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    summary = json.loads(done.stdout)
    rounds_text = (out / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    per_round = [json.loads(line)["seconds"] for line in rounds_text if '"seconds"' in line]
    seconds = summary["seconds"]
    return {
        "sites": summary["sites"],
        "total_s": seconds["total"],
        "round_s": sum(per_round) / len(per_round),
        "per_site_ms": 1000 * sum(per_round) / len(per_round) / summary["sites"],
        "overhead_per_site_ms": 1000 * seconds["overhead"] / summary["sites"] / rounds,
        "peak_rss_mb": summary["peak_rss_mb"],
    }
