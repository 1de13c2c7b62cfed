"""The formats: each writes a file, and reads it back as something that can be called.

B = examples in a batch; its size is free in every format.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wardround_shared.errors import RunError
from wardround_shared.network import build_network
from wardround_shared.preprocessing import Recipe
from wardround_simulations.evaluation import FinishedRun
from wardround_simulations.exporting.identity import INPUTS, KEY, OUTPUT

Call = Callable[[tuple[Tensor, ...]], Tensor]
"""Inputs [B, ...] -> output [B, ...], computed by what was written."""

_CONSTANT = "preprocessing.{step}.{name}"


class Format(Protocol):
    """One format of an exported model."""

    def require(self) -> None:
        """Refuse before anything is done if a package is not installed.

        Raises:
            RunError: naming the extra.
        """

    def write(
        self, run: FinishedRun, example: tuple[Tensor, ...], said: dict[str, Any], file: Path
    ) -> None:
        """Write the model; `example` is a batch of inputs, `said` what it says of itself."""

    def read(self, run: FinishedRun, file: Path) -> Call:
        """The model that stands in a written file."""


class Weights:
    """safetensors: the arrays; the network is named by the study, which stands in the metadata."""

    def require(self) -> None:
        """Nothing is needed."""

    def write(
        self, run: FinishedRun, example: tuple[Tensor, ...], said: dict[str, Any], file: Path
    ) -> None:
        """See `Format.write`."""
        from safetensors.torch import save_file  # noqa: PLC0415 - only here

        arrays = {name: value.contiguous() for name, value in run.module.state_dict().items()}
        for step, constants in enumerate(run.fitted):
            for name, value in constants.items():
                arrays[_CONSTANT.format(step=step, name=name)] = torch.from_numpy(value)
        save_file(arrays, file, {KEY: json.dumps(said, sort_keys=True)})

    def read(self, run: FinishedRun, file: Path) -> Call:
        """See `Format.read`: the network is built anew from the study."""
        from safetensors.torch import load_file  # noqa: PLC0415 - only here

        shapes = Recipe(run.study).output_shapes(run.shapes)
        with torch.random.fork_rng(devices=[]):
            module = build_network(run.study, shapes).eval()
        arrays = load_file(file)
        module.load_state_dict({name: arrays[name] for name in module.state_dict()})
        return lambda inputs: module(*inputs)


class TorchProgram:
    """torch.export: the network as a graph of operators, with its weights, for torch alone."""

    def require(self) -> None:
        """Torch is there."""

    def write(
        self, run: FinishedRun, example: tuple[Tensor, ...], said: dict[str, Any], file: Path
    ) -> None:
        """See `Format.write`; the description is the archive's extra file `wardround.json`."""
        with _quietly(), _one_sentence():
            network = _named(run.module, example)
            program = torch.export.export(network, example, dynamic_shapes=_free_batch(example))
            # Without the examples, which may be somebody's.
            program.example_inputs = None
            text = json.dumps(said, sort_keys=True)
            with file.open("wb") as opened:
                torch.export.save(program, opened, extra_files={f"{KEY}.json": text})

    def read(self, run: FinishedRun, file: Path) -> Call:
        """See `Format.read`."""
        with _quietly(), file.open("rb") as opened:
            module = torch.export.load(opened).module()
        return lambda inputs: module(*inputs)


class Onnx:
    """ONNX, for other software; checked by onnxruntime."""

    def require(self) -> None:
        """The extra `onnx` has to be installed."""
        missing = [one for one in ("onnx", "onnxscript", "onnxruntime") if find_spec(one) is None]
        if missing:
            raise RunError(
                f"--format onnx: {' and '.join(missing)} not installed here; install wardround "
                "with its extra onnx (pip install 'wardround[onnx]'), or take another format."
            )

    def write(
        self, run: FinishedRun, example: tuple[Tensor, ...], said: dict[str, Any], file: Path
    ) -> None:
        """See `Format.write`; the description is the metadata property `wardround`."""
        with _quietly(), _one_sentence():
            program = torch.onnx.export(
                _named(run.module, example),
                example,
                dynamo=True,
                input_names=list(INPUTS[: len(example)]),
                output_names=[OUTPUT],
                dynamic_shapes=_free_batch(example),
                verbose=False,
            )
            assert program is not None
            program.model.metadata_props[KEY] = json.dumps(said, sort_keys=True)
            program.save(str(file), external_data=False)

    def read(self, run: FinishedRun, file: Path) -> Call:
        """See `Format.read`."""
        import onnxruntime  # noqa: PLC0415 - of an extra

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

        def call(inputs: tuple[Tensor, ...]) -> Tensor:
            fed = {name: one.numpy() for name, one in zip(INPUTS, inputs, strict=False)}
            (found,) = session.run([OUTPUT], fed)
            return torch.from_numpy(found)

        return call


class _Main(nn.Module):
    """A network under the names of its inputs: exporters read them off the signature."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, main: Tensor) -> Tensor:
        """What the network puts out."""
        found: Tensor = self.network(main)
        return found


class _MainAndStatic(_Main):
    """Likewise, with static columns."""

    def forward(self, main: Tensor, static: Tensor) -> Tensor:  # type: ignore[override] # one more
        """What the network puts out."""
        found: Tensor = self.network(main, static)
        return found


def _named(module: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
    return (_Main(module) if len(example) == 1 else _MainAndStatic(module)).eval()


def _free_batch(example: tuple[Tensor, ...]) -> tuple[Any, ...]:
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    return tuple({0: batch} for _ in example)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Exporters give up on a network with whatever they have, and pages of advice."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise RunError(
            f"This network cannot be written in this format ({type(error).__name__}); take another "
            "format."
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Exporters warn of their own inner workings, which nobody here can change."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
