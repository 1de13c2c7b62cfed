"""A site's own part of the model and its own model, as files of the site and run.

Nothing sends them. `round-<n>.safetensors` holds the site's own parameters as round n left them,
`model.safetensors` the model as the hospital uses it, in the form of a run folder's. Folder 0700,
files 0600. O = the site's own parameters: those of some layers, or of a whole model.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from wardround_client.durable import keeping, private_folder, remove_unfinished, replace
from wardround_shared import __version__
from wardround_shared.errors import PrivacyError
from wardround_shared.messages import Fitted, Shapes, shapes_text
from wardround_shared.study import Study

PERSONAL = "personal"
"""Name of the folder, below that of the site and run."""
MODEL = "model.safetensors"
"""The hospital's own model."""

_METADATA = "wardround"
_OWN = "own"
_DAMAGED = (
    "What this site keeps of its own part of the model is damaged or is another run's, so that it "
    "cannot go on with it; see to its disk, and start a new run."
)


@dataclass(frozen=True, kw_only=True)
class PersonalFiles:
    """The files of one site in one run. Whoever uses them holds the site's turn.

    Attributes:
        folder: made if need be.
        run: the one run that they belong to.
        study_id: its study.
    """

    folder: Path
    run: str
    study_id: str

    def before(self, round_number: int) -> NDArray[np.float32] | None:
        """What (float32 [O]) the last round before this one left; None: there is none.

        Raises:
            PrivacyError: it is damaged, or of another run.
        """
        # What a training left that was killed before its answer was stored is not gone on from.
        earlier = [number for number in self._rounds() if number < round_number]
        return self.of(earlier[-1]) if earlier else None

    def of(self, round_number: int) -> NDArray[np.float32]:
        """What (float32 [O]) this very round left.

        Raises:
            PrivacyError: it is damaged, of another run, or not there.
        """
        try:
            with safe_open(self._file(round_number), framework="numpy") as opened:
                said = json.loads((opened.metadata() or {})[_METADATA])
                own: NDArray[np.float32] = opened.get_tensor(_OWN)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise PrivacyError(_DAMAGED) from error
        if said != self._about(round_number, own) or own.dtype != np.float32 or own.ndim != 1:
            raise PrivacyError(_DAMAGED)
        return own

    def keep(
        self, round_number: int, own: NDArray[np.float32], *, begun_with: int | None = None
    ) -> None:
        """Keep what a round has left (float32 [O]), and what the round before it had.

        A round that is trained anew after a crash begins with the latter again.

        Args:
            round_number: of the round.
            own: what it has left.
            begun_with: the round whose remains this one began with, if not the last before it.

        Raises:
            PrivacyError: the disk is full, or cannot be written.
        """
        about = self._about(round_number, own)
        with keeping("This site's own part of the model"):
            private_folder(self.folder)
            remove_unfinished(self.folder)
            _write(self._file(round_number), {_OWN: own}, about)
            earlier = [number for number in self._rounds() if number < round_number]
            if begun_with is None and earlier:
                begun_with = earlier[-1]
            for number in earlier:
                if number != begun_with:
                    self._file(number).unlink(missing_ok=True)

    def beside(self, name: str) -> "PersonalFiles":
        """Files of the same site and run in a folder of this name, beside these."""
        return replaced(self, folder=self.folder.with_name(name))

    def keep_model(
        self, study: Study, arrays: Mapping[str, NDArray[Any]], *, fitted: Fitted, shapes: Shapes
    ) -> None:
        """Keep the hospital's own model with all that is needed to use it.

        Args:
            study: the study.
            arrays: parameters by name.
            fitted: preprocessing constants.
            shapes: of one decoded example.

        Raises:
            PrivacyError: the disk is full, or cannot be written.
        """
        constants = {
            f"preprocessing.{step}.{key}": np.asarray(value)
            for step, values in enumerate(fitted)
            for key, value in values.items()
        }
        about = {
            "study": study.study.name,
            "study_id": study.study_id,
            "classes": "\n".join(study.study.classes),
            "shapes": shapes_text(shapes),
            "fitted_steps": str(len(fitted)),
            "software": __version__,
        }
        with keeping("This site's own model"):
            private_folder(self.folder)
            remove_unfinished(self.folder)
            _write(self.folder / MODEL, {**arrays, **constants}, about)

    def _rounds(self) -> list[int]:
        """Rounds that have left something, the oldest first."""
        files = self.folder.glob("round-*.safetensors")
        return sorted(int(file.stem.removeprefix("round-")) for file in files)

    def _file(self, round_number: int) -> Path:
        return self.folder / f"round-{round_number}.safetensors"

    def _about(self, round_number: int, own: NDArray[np.float32]) -> dict[str, Any]:
        return {
            "run": self.run,
            "study_id": self.study_id,
            "round": round_number,
            "sha256": hashlib.sha256(own.tobytes()).hexdigest(),
        }


def _write(file: Path, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = save(contiguous, {_METADATA: json.dumps(dict(about), sort_keys=True)})
    replace(file, [content])
