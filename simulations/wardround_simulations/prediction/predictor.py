"""A finished run's model, opened once and asked as often as one likes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wardround_client.sources.input_columns import Beside
from wardround_server.card import CARD
from wardround_shared.errors import UnreadableError
from wardround_shared.study import Study
from wardround_simulations.evaluation import open_run, read_summary
from wardround_simulations.prediction.attachments import Attachment
from wardround_simulations.prediction.likeness import IMPOSSIBLE, can_compare
from wardround_simulations.prediction.output import Answers, Row
from wardround_simulations.prediction.prediction import Failure, predict_inputs
from wardround_simulations.prediction.readers import reader_of


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
        self._reader = reader_of(study, (summary.get("counts") or {}).get("overall") or [])
        self.card = path / CARD if (path / CARD).is_file() else None
        self.not_private = self._run.not_private
        self.about: dict[str, Any] = {
            "run": str(path),
            "study": study.study.name,
            "study_id": study.study_id,
            "classes": list(study.study.classes),
            "model_card": None if self.card is None else str(self.card),
            "calibration": self._reader.calibration,
            "compared_with_training_data": can_compare(self._run),
        }

    @property
    def study(self) -> Study:
        """That the model was trained by."""
        return self._run.study

    def ask(
        self,
        inputs: Iterable[Path],
        *,
        columns: Beside | None = None,
        attachments: Sequence[Attachment] = (),
    ) -> Answers:
        """What the model says of every example in these files, and which could not be used.

        Args:
            inputs: of the kind that the study's source reads.
            columns: that the study has beside images or recordings: a table, or the cells of one.
            attachments: what is written of each answer, before the next batch is asked about.

        Raises:
            RunError: the model's output is not finite.
            RunFolderError: an attachment cannot be written.
        """
        rows: list[Row] = []
        failures: list[Failure] = []
        for one in predict_inputs(self._run, inputs, columns=columns):
            if isinstance(one, Failure):
                failures.append(one)
                continue
            answer = self._reader.read(one)
            files: dict[str, tuple[Path, ...]] = {}
            for attachment in attachments:
                try:
                    files[attachment.kind] = attachment.write(one, answer)
                except UnreadableError as error:
                    failures.append(Failure(path=one.path, input=one.input, why=str(error)))
            # The steps of a sequence have numbers of their own.
            name = one.input if one.steps is None else str(one.path)
            rows.append(Row(input=name, answer=answer, warnings=one.warnings, files=files))
        return Answers(
            about=self.about,
            columns=self._reader.columns,
            rows=rows,
            failures=failures,
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
