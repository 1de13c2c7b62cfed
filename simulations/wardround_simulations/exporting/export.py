"""From a run folder to one checked file."""

import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from wardround_server import durable
from wardround_shared.errors import RunFolderError, UnsupportedError
from wardround_simulations.evaluation import open_run
from wardround_simulations.exporting.check import (
    Difference,
    compare,
    made_up_inputs,
    real_inputs,
)
from wardround_simulations.exporting.formats import Format, Onnx, TorchProgram, Weights
from wardround_simulations.exporting.identity import identity_of

FORMATS: dict[str, Format] = {
    "onnx": Onnx(),
    "torch-export": TorchProgram(),
    "safetensors": Weights(),
}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A model that was written, and how far it is from the original.

    Attributes:
        not_private: what to say of a model that protects nobody; else empty.
    """

    file: Path
    difference: Difference
    not_private: str


def export_model(path: Path, kind: str, out: Path, *, data: Path | None, cache: Path) -> Exported:
    """Write a run's model in one of `FORMATS`, read it back, compare, and only then keep it.

    Args:
        path: run folder.
        kind: of format.
        out: file, which must not be there.
        data: folder of real inputs; without it random ones of the right shape are compared.
        cache: folder of decoded cohorts.

    Raises:
        RunError: a package is missing, or the exported model gives other answers.
        RunFolderError: the run cannot be used, or the file cannot be written.
    """
    chosen = FORMATS[kind]
    chosen.require()
    run = open_run(path)
    if os.path.lexists(out):
        raise RunFolderError(f"{out}: this file exists already; name another with --out.")
    if run.study.study.kind == "generation" and kind != "safetensors":
        raise UnsupportedError(
            f"--format {kind}: a generator and its discriminator are two networks, and this format "
            "has one; take safetensors, or the images themselves with wardround generate."
        )
    batches = made_up_inputs(run) if data is None else real_inputs(run, data, cache)
    found: list[Difference] = []

    def write(file: Path) -> None:
        # Two examples: of a batch of one, exporters make a constant.
        chosen.write(
            run, tuple(part[:2] for part in made_up_inputs(run)[1]), identity_of(run), file
        )
        found.append(compare(run, chosen.read(run, file), batches, real=data is not None))

    try:
        durable.replace(out, write, durable=False)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunFolderError(f"{out}: cannot be written ({reason}).") from error
    return Exported(file=out, difference=found[0], not_private=run.not_private)
