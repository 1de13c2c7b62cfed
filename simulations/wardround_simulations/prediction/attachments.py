"""Files that are written beside an answer, each whole or not at all, and none over another."""

import re
from pathlib import Path
from typing import Protocol

from wardround_server import durable
from wardround_shared.errors import RunFolderError
from wardround_simulations.prediction.answers import Answer
from wardround_simulations.prediction.prediction import Prediction


class Attachment(Protocol):
    """Writes one kind of file beside each answer.

    Attributes:
        kind: what the files are called in JSON.
    """

    kind: str

    def write(self, one: Prediction, answer: Answer) -> tuple[Path, ...]:
        """The files of one answer.

        Raises:
            UnreadableError: there is none for this input; others go on.
            RunFolderError: nothing can be written here.
        """
        ...


class NewFolder:
    """A folder that nothing was in; files are numbered in the order of the inputs.

    They are of patients: only who asked may read them, and look into the folder if it is made here.
    """

    def __init__(self, place: Path, option: str) -> None:
        """Make nothing yet.

        Args:
            place: where it is to be.
            option: of the command, for messages.

        Raises:
            RunFolderError: something is there already.
        """
        self._place, self._option = place, option
        self._given = 0
        if place.is_symlink() or (place.exists() and (not place.is_dir() or any(place.iterdir()))):
            raise RunFolderError(
                f"{place}: this is there and not empty; name another with {option}."
            )

    def next(self, one: Prediction) -> str:
        """How the names of the next input's files begin: inputs of two folders may share a name."""
        self._given += 1
        name = one.path.stem + one.input.removeprefix(str(one.path))
        return f"{self._given:03}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}"

    def write(self, name: str, write: durable.Write) -> Path:
        """Have a file of this name written.

        Raises:
            RunFolderError: it cannot be.
        """
        file = self._place / name

        def write_private(unfinished: Path) -> None:
            unfinished.touch(mode=0o600, exist_ok=False)
            write(unfinished)

        try:
            self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.replace(file, write_private, durable=False)
        except OSError as error:
            raise RunFolderError(f"{file}: cannot be written ({error.strerror}).") from error
        return file
