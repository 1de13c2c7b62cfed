"""Writes the DICOM objects of each answer."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from wardround_client.sources.dicom_original import read_original
from wardround_client.sources.quiet import unheard
from wardround_shared.errors import RunError, UnreadableError, UnsupportedError
from wardround_shared.study import DicomData, DicomWaveformData, PhantomData, Study
from wardround_simulations.prediction.answers import Answer
from wardround_simulations.prediction.areas import Areas, mask_of
from wardround_simulations.prediction.attachments import NewFolder
from wardround_simulations.prediction.likeness import IMPOSSIBLE
from wardround_simulations.prediction.prediction import Prediction
from wardround_simulations.prediction.predictor import Predictor

if TYPE_CHECKING:
    from highdicom import UID
    from pydicom import Dataset

_FAULT = (
    "its answer cannot be written as DICOM: the header of the file lacks something or is damaged, "
    "so that nothing can refer to it"
)


class Reports:
    """A structured report for each input, and before it a segmentation if there is one."""

    kind = "dicom"

    def __init__(self, model: Predictor, folder: NewFolder) -> None:
        """Nothing is written yet.

        Raises:
            RunError: the study's inputs are no DICOM files.
            UnsupportedError: the library is not installed.
        """
        study = model.study
        if not isinstance(study.data, DicomData | PhantomData | DicomWaveformData):
            raise RunError(
                f'--dicom-out: the inputs of data.source = "{study.data.source}" are no DICOM '
                "files, and there is no patient and no image to refer to; leave it out."
            )
        try:
            from wardround_simulations.prediction.dicom.identity import Identity  # noqa: PLC0415
        except ImportError as error:
            raise UnsupportedError(
                "--dicom-out needs the package highdicom; install wardround[dicom]."
            ) from error
        said = [f"Calibration: {model.about['calibration']}."]
        if not model.about["compared_with_training_data"]:
            said.append(f"Note: {IMPOSSIBLE}.")
        self._identity = Identity(
            study=study,
            run=Path(model.about["run"]).name,
            privacy=_privacy(study, model.not_private),
            said=tuple(said),
        )
        self._folder = folder
        self._series: dict[tuple[str, str], UID] = {}
        self._written: Counter[tuple[str, str]] = Counter()

    def write(self, one: Prediction, answer: Answer) -> tuple[Path, ...]:
        """See `Attachment.write`."""
        if isinstance(answer, Areas) and one.number is not None:
            raise UnreadableError(
                "a segmentation of a file with several frames cannot be written as DICOM yet"
            )
        with unheard("pydicom", "highdicom"):
            try:
                made = self._made(one, answer, read_original(one.path))
            except UnreadableError:
                raise
            except Exception as error:  # of a header that is not as the standard says
                raise UnreadableError(_FAULT) from error
            name = self._folder.next(one)
            return tuple(
                self._folder.write(f"{name}.{kind}.dcm", dataset.save_as)
                for kind, dataset in made.items()
            )

    def _made(self, one: Prediction, answer: Answer, source: "Dataset") -> dict[str, "Dataset"]:
        """Segmentation, where there is one, and report, by the ending of their names."""
        from wardround_simulations.prediction.dicom.measured import Measured  # noqa: PLC0415
        from wardround_simulations.prediction.dicom.report import make_report  # noqa: PLC0415
        from wardround_simulations.prediction.dicom.segmentation import (  # noqa: PLC0415
            make_segmentation,
        )

        segments = None
        if isinstance(answer, Areas):
            series, number = self._next("SEG", source)
            segments = make_segmentation(
                self._identity, source, mask_of(one), series=series, number=number
            )
        measured = Measured(
            self._identity,
            source,
            part=one.input.removeprefix(str(one.path)),
            frame=one.number if int(source.get("NumberOfFrames") or 1) > 1 else None,
            segments=segments,
        )
        series, number = self._next("SR", source)
        report = make_report(
            self._identity,
            [source] if segments is None else [source, segments],
            measured.groups(answer),
            warnings=one.warnings,
            series=series,
            number=number,
        )
        return {"sr": report} if segments is None else {"seg": segments, "sr": report}

    def _next(self, kind: str, source: "Dataset") -> tuple["UID", int]:
        """The series for this kind of object in the study of a patient, and the number in it."""
        from highdicom import UID  # noqa: PLC0415 - an extra

        key = (kind, str(source.StudyInstanceUID))
        self._written[key] += 1
        return self._series.setdefault(key, UID()), self._written[key]


def _privacy(study: Study, not_private: str) -> str:
    if not_private:
        return f"Privacy: {not_private}."
    asked = study.privacy
    return (
        f"Privacy: trained with differential privacy ({asked.mechanism} per {asked.unit}, epsilon "
        f"at most {asked.epsilon:g} at delta {asked.delta:g}, at every site)."
    )
