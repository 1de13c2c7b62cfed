"""How to run a study, and what follows from that alone."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from wardround_client.policy import Policy
from wardround_shared.errors import RunError
from wardround_shared.study import Study
from wardround_simulations.backends import BackendName

SITES = "sites"
"""Name of the folder of a run that has one for each virtual site."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to run a study, apart from what it learns.

    Attributes:
        data: folder with the study's files; none for a study that makes its own.
        sites: deal the patients to so many virtual sites instead of the data's own hospitals.
        workers: processes that serve sites.
        device: `auto` takes CUDA where it is there.
        out: the run folder; without it `runs/<name>-<time>`.
        cache: folder of decoded cohorts.
        noise_seed: noise injected for a test; then nothing is private, and every output says so.
        policy: of every virtual site; without it each allows the study's epsilon, and no more.
        homes: folder of the virtual sites' homes, whose ledgers go on from run to run; without it
            each run gives its sites new ones.
        weights: a file that the model starts from.
    """

    study: Study
    data: Path | None
    sites: int | None
    backend: BackendName
    workers: int
    device: Literal["auto", "cpu", "cuda"]
    out: Path | None
    seed: int
    cache: Path
    noise_seed: int | None = None
    policy: Policy | None = None
    homes: Path | None = None
    weights: Path | None = None


def resolve_device(device: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """The device to train on.

    Raises:
        RunError: CUDA is asked for and not there.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise RunError("--device cuda: this machine has no usable GPU; take --device cpu.")
    return "cuda" if available and device != "cpu" else "cpu"


def default_run_folder(name: str) -> Path:
    """`runs/<name>-<time>`, with a number behind it if that second has one already."""
    stamp = datetime.datetime.now(tz=datetime.UTC).strftime("%Y%m%d-%H%M%S")
    path = Path("runs") / f"{name}-{stamp}"
    number = 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{stamp}-{number}"
    return path
