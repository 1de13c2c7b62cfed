"""The last global models of a run, whose mean is the model that is kept (`average-last`).

They lie on disk, one file each, so that the server holds one model however many are averaged. A
file is written once, before the checkpoint that names its round, and removed after the first one
that does not.
"""

import json
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from wardround_server.optimisers import Parameters
from wardround_server.run_folder import CHECKPOINTS, METADATA, RunFolder
from wardround_shared.errors import RunFolderError

_BLOCK = 1 << 18


class LastModels:
    """The models of the last `length` rounds that moved the model.

    Attributes:
        rounds: their numbers.
    """

    def __init__(self, folder: RunFolder, length: int, rounds: Iterable[int] = ()) -> None:
        """Begin with none, or with those of these rounds, whose files are there."""
        self._folder = folder
        self._length = length
        self.rounds = tuple(rounds)

    def add(self, number: int, parameters: Parameters) -> None:
        """Keep the model that round `number` has led to.

        Raises:
            RunFolderError: it cannot be written.
        """
        # The mean of one is the model itself, which is in the checkpoint.
        if self._length > 1:
            checksum = {"checksum": str(zlib.crc32(parameters.data))}
            self._folder.write_arrays(_name(number), {"parameters": parameters}, checksum)
        self.rounds = (*self.rounds, number)[-self._length :]

    def remove_others(self) -> None:
        """Remove the files of other rounds; call it when a checkpoint names those that stay."""
        self._remove(but={_name(number) for number in self.rounds})

    def remove_all(self) -> None:
        """Remove all files: the mean is stored, and will not be asked for again."""
        self._remove(but=set())

    def _remove(self, but: set[str]) -> None:
        for file in (self._folder.path / CHECKPOINTS).glob("model-*.safetensors"):
            if f"{CHECKPOINTS}/{file.name}" not in but:
                file.unlink(missing_ok=True)

    def mean(self, latest: Parameters) -> Parameters:
        """Their mean, summed in float64 from the oldest to the newest; float32 [P].

        Args:
            latest: the newest of them.

        Raises:
            RunFolderError: a file is missing or damaged.
        """
        if len(self.rounds) == 1:
            return latest
        files = [self._folder.path / _name(number) for number in self.rounds]
        mean = np.empty_like(latest)
        try:
            with ExitStack() as stack:
                models = [stack.enter_context(_Stored(file, latest.size)) for file in files]
                for start in range(0, latest.size, _BLOCK):
                    place = slice(start, min(start + _BLOCK, latest.size))
                    # The same order of additions as numpy's mean of the stacked models.
                    blocks = (model.read(place.stop - place.start) for model in models)
                    mean[place] = sum(blocks, start=np.float64(-0.0)) / len(models)
                for model in models:
                    model.check()
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise RunFolderError(
                f"A model that is to be averaged is damaged ({error}); restore the run folder "
                "from a backup, or start the run anew."
            ) from error
        return mean


class _Stored:
    """One model's file, read from its beginning to its end.

    Not mapped into memory, where a whole model after the other would come to lie.
    """

    def __init__(self, file: Path, size: int) -> None:
        """Open a file of `size` parameters.

        Raises:
            OSError, SafetensorError, ValueError: it is not there, or is not one.
        """
        opened: Any
        with safe_open(file, framework="numpy") as opened:
            self._said = json.loads((opened.metadata() or {})[METADATA])["checksum"]
            if opened.get_slice("parameters").get_shape() != [size]:
                raise ValueError("it is of another model")
        self._checksum = 0
        self._file = file.open("rb")
        # One array, behind its header.
        self._file.seek(8 + int.from_bytes(self._file.read(8), "little"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, number: int) -> NDArray[np.float64]:
        """The next so many values."""
        content = self._file.read(4 * number)
        self._checksum = zlib.crc32(content, self._checksum)
        return np.frombuffer(content, np.float32).astype(np.float64)

    def check(self) -> None:
        """Once all is read.

        Raises:
            ValueError: it is not what was written.
        """
        if str(self._checksum) != self._said:
            raise ValueError("its checksum is of other content")


def _name(number: int) -> str:
    return f"{CHECKPOINTS}/model-{number}.safetensors"
