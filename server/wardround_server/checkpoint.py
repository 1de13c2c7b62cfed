"""How far a run has got: one file, replaced as a whole, from which a killed server goes on.

The file is also a model that can be used elsewhere: its arrays have the names of the model's
parameters, and its metadata are those of `model.safetensors`, with `progress` and `checksum` beside
them. Models that are to be averaged lie beside it (`last_models.py`). P = model parameters,
L = metric counts, K = classes.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from wardround_server.named_parameters import NamedParameters
from wardround_server.optimisers import Parameters
from wardround_server.rounds import Dropped, GivenUp
from wardround_server.run_folder import CHECKPOINT, METADATA, MODEL, RunFolder, read_model
from wardround_shared import __version__
from wardround_shared.errors import RunFolderError
from wardround_shared.messages import Fitted, Floats, Shapes, read_shapes, shapes_text
from wardround_shared.study import Study

_OPTIMISER = "optimiser."
_CONTROL = "control."
_CLASS_COUNTS = "run.class-counts"
_COUNTS = "run.counts"


@dataclass(kw_only=True)
class Progress:
    """What a coordinator knows, and nothing that it could work out again.

    Attributes:
        shapes: of one decoded example, per part; the same at all sites.
        sites: that have answered the first message of this run, now or before.
        fitted: constants of the steps that are fitted already.
        class_counts: float64 [K] over all sites; none before they are summed.
        parameters: float32 [P].
        control: state of the control variate; empty where the strategy has none.
        counted: site -> the last round whose sum has its update in it; only with `control`.
        finished: rounds of training that are over, those given up among them.
        away: site -> why, for sites that were asked and have not been there since.
        in_a_row: how many of the last ones were given up.
        averaged: the rounds whose models are averaged in the end; none if nothing moved yet.
        dropped: sites that are not in the other sums; those of the rounds stand in the roster.
        counts: float64 [L] of the final model; with them the run is complete.
    """

    shapes: Shapes = ()
    sites: tuple[str, ...] = ()
    away: dict[str, str] = field(default_factory=dict)
    fitted: Fitted = ()
    class_counts: Floats | None = None
    parameters: Parameters = field(default_factory=lambda: np.zeros(0, np.float32))
    optimiser: Mapping[str, Floats] = field(default_factory=dict)
    control: Mapping[str, Floats] = field(default_factory=dict)
    counted: Mapping[str, int] = field(default_factory=dict)
    finished: int = 0
    in_a_row: int = 0
    averaged: tuple[int, ...] = ()
    dropped: list[Dropped] = field(default_factory=list)
    given_up: list[GivenUp] = field(default_factory=list)
    counts: Floats | None = None


class Checkpoints:
    """Writes and reads the checkpoint and the model of one run."""

    def __init__(self, folder: RunFolder, *, study: Study, run: str, seed: int) -> None:
        """Those of this run, which no other run goes on from."""
        self._folder = folder
        self._study = study
        self._identity = {"study_id": study.study_id, "run": run, "seed": seed}

    def save(self, progress: Progress, names: NamedParameters) -> None:
        """Replace the checkpoint; the lines of rounds and roster up to now belong to it.

        Raises:
            RunFolderError: the disk is full or failed; the checkpoint is as it was.
        """
        arrays = _model_arrays(progress, names)
        arrays |= {f"{_OPTIMISER}{key}": value for key, value in progress.optimiser.items()}
        arrays |= {f"{_CONTROL}{key}": value for key, value in progress.control.items()}
        for name, value in ((_CLASS_COUNTS, progress.class_counts), (_COUNTS, progress.counts)):
            if value is not None:
                arrays[name] = value
        said = {
            **self._identity,
            "sites": progress.sites,
            "away": progress.away,
            "counted": dict(progress.counted),
            "finished": progress.finished,
            "in_a_row": progress.in_a_row,
            "averaged": progress.averaged,
            "dropped": [asdict(drop) for drop in progress.dropped],
            "given_up": [asdict(one) for one in progress.given_up],
            # First the lines, then the checkpoint that knows of them.
            "lines": self._folder.sync_lines(),
            "constants": [sorted(constants) for constants in progress.fitted],
        }
        metadata = self._metadata(progress) | {"progress": json.dumps(said, sort_keys=True)}
        checksum = _checksum(metadata, ((name, arrays[name]) for name in sorted(arrays)))
        self._folder.write_arrays(CHECKPOINT, arrays, metadata | {"checksum": checksum})

    def save_model(self, progress: Progress, names: NamedParameters) -> None:
        """Write the final model, with everything needed to use it elsewhere.

        Raises:
            RunFolderError: the disk is full or failed.
        """
        arrays = _model_arrays(progress, names)
        self._folder.write_arrays(MODEL, arrays, self._metadata(progress))

    def load(
        self, names_of: Callable[[Shapes], NamedParameters]
    ) -> tuple[Progress, NamedParameters] | None:
        """The checkpoint; none before the first.

        Lines that a killed server has written after it are cut off.

        Args:
            names_of: the model's parameters, once the shape of an example is known.

        Raises:
            RunFolderError: it is damaged, of another run, or lines are missing that belong to it.
        """
        file = self._folder.path / CHECKPOINT
        if not file.is_file():
            self._folder.cut_lines({})
            return None
        with _opened(file) as (metadata, arrays):
            said = json.loads(metadata["progress"])
            self._require_mine(said)
            progress = _progress(metadata, said, arrays)
            names = names_of(progress.shapes)
            progress.parameters = names.join(arrays)
        self._folder.cut_lines(said["lines"])
        return progress, names

    def load_model(self, names: NamedParameters) -> Parameters:
        """The parameters of the final model, which has been written.

        Raises:
            RunFolderError: it is not there, or damaged.
        """
        arrays, _ = read_model(self._folder.path)
        return names.join(arrays)

    def _metadata(self, progress: Progress) -> dict[str, str]:
        return {
            "study": self._study.study.name,
            "study_id": self._study.study_id,
            "classes": "\n".join(self._study.study.classes),
            "shapes": shapes_text(progress.shapes),
            "fitted_steps": str(len(progress.fitted)),
            "software": __version__,
        }

    def _require_mine(self, said: Mapping[str, Any]) -> None:
        for name, mine in self._identity.items():
            if said[name] != mine:
                raise RunFolderError(
                    f"{self._folder.path}: the checkpoint is of {name} {said[name]}, and not of "
                    f"{mine}; a run goes on with what it began with."
                )


class _Arrays(Mapping[str, NDArray[Any]]):
    """The arrays of an open file, each read when it is asked for."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        self._names = frozenset(opened.keys())

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        array: NDArray[Any] = self._opened.get_tensor(name)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def _opened(file: Path) -> Iterator[tuple[dict[str, str], _Arrays]]:
    """Metadata and arrays of a checkpoint that is as it was written.

    Raises:
        RunFolderError: it is not, or cannot be read.
    """
    try:
        with safe_open(file, framework="numpy") as opened:
            metadata = json.loads((opened.metadata() or {})[METADATA])
            arrays = _Arrays(opened)
            checksum = metadata.pop("checksum")
            if checksum != _checksum(metadata, arrays.items()):
                raise ValueError("its checksum is of other content")
            yield metadata, arrays
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{file}: the checkpoint is damaged ({error}); restore the run folder from a backup, "
            "or start the run anew."
        ) from error


def _checksum(
    metadata: Mapping[str, str], arrays: Iterable[tuple[str, NDArray[np.generic]]]
) -> str:
    """CRC-32 over metadata and arrays (sorted by name): against torn files, not against people."""
    found = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name, array in arrays:
        found = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), found)
        found = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, found)
    return str(found)


def _model_arrays(progress: Progress, names: NamedParameters) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = dict(names.split(progress.parameters))
    for step, constants in enumerate(progress.fitted):
        for key, value in constants.items():
            arrays[f"preprocessing.{step}.{key}"] = np.asarray(value)
    return arrays


def _progress(
    metadata: Mapping[str, str], said: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> Progress:
    """All but the parameters."""
    return Progress(
        shapes=read_shapes(metadata["shapes"]),
        sites=tuple(said["sites"]),
        away=dict(said["away"]),
        fitted=tuple(
            {key: arrays[f"preprocessing.{step}.{key}"] for key in keys}
            for step, keys in enumerate(said["constants"])
        ),
        class_counts=arrays.get(_CLASS_COUNTS),
        optimiser=_below(_OPTIMISER, arrays),
        control=_below(_CONTROL, arrays),
        counted=dict(said["counted"]),
        finished=said["finished"],
        in_a_row=said["in_a_row"],
        averaged=tuple(said["averaged"]),
        dropped=[Dropped(**drop) for drop in said["dropped"]],
        given_up=[GivenUp(**one) for one in said["given_up"]],
        counts=arrays.get(_COUNTS),
    )


def _below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
