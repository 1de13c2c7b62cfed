"""A finished run's model, opened once and asked as often as one likes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wardround_server.card import CARD
from wardround_shared.study import Study
from wardround_simulations.evaluation import open_run, read_summary
from wardround_simulations.prediction.answers import Reader
from wardround_simulations.prediction.likeness import IMPOSSIBLE, can_compare
from wardround_simulations.prediction.output import Answers
from wardround_simulations.prediction.prediction import Failure, predict_inputs


class Predictor:
    """The model of one run folder.

    Attributes:
        about: of the model, by name: run, study, classes, card, calibration.
        card: its model card; None if the run has none.
        not_private: what to say beside every answer of a model that protects nobody; else empty.

    Raises:
        RunFolderError: the run is not there, not finished, damaged, or of another release.
    """

    def __init__(self, path: Path) -> None:
        self._run, summary = open_run(path), read_summary(path)
        study = self._run.study
        self._reader = Reader(study, (summary.get("counts") or {}).get("overall") or [])
        self.card = path / CARD if (path / CARD).is_file() else None
        self.not_private = _not_private(study, summary)
        self.about: dict[str, Any] = {
            "run": str(path),
            "study": study.study.name,
            "study_id": study.study_id,
            "classes": list(study.study.classes),
            "model_card": None if self.card is None else str(self.card),
            "calibration": self._reader.calibration,
            "compared_with_training_data": can_compare(self._run),
        }

    def ask(self, inputs: Iterable[Path], *, columns: Path | None = None) -> Answers:
        """What the model says of every example in these files, and which could not be used.

        Args:
            inputs: of the kind that the study's source reads.
            columns: table of the columns that the study has beside images or recordings.

        Raises:
            RunError: the model's output is not finite.
        """
        found = list(predict_inputs(self._run, inputs, columns=columns))
        return Answers(
            about=self.about,
            rows=[
                (one, self._reader.read(one.values))
                for one in found
                if not isinstance(one, Failure)
            ],
            failures=[one for one in found if isinstance(one, Failure)],
            not_private=self.not_private,
            notes=self._notes(),
        )

    def _notes(self) -> list[str]:
        notes = [f"calibration: {self._reader.calibration}"]
        if not can_compare(self._run):
            notes.append(f"note: {IMPOSSIBLE}")
        if self.not_private:
            notes.append(f"privacy: {self.not_private}")
        card = self.card or "this run has no card"
        return [*notes, f"what the model is for, and what it is not: {card}"]


def _not_private(study: Study, summary: dict[str, Any]) -> str:
    if not study.privacy.private:
        return "NONE (mechanism = none): this model may reveal its training data"
    if summary.get("noise", "system") != "system":
        return "NONE (the noise was injected for a test): this model may reveal its training data"
    return ""
