"""Answers as measurement groups of a report (PS3.16 TID 1410, 1411 and 1501)."""

from collections.abc import Sequence

import numpy as np
from highdicom import UID
from highdicom.seg import Segmentation
from highdicom.sr import (
    CodedConcept,
    GraphicTypeValues,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    ReferencedSegmentationFrame,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    SourceImageForSegmentation,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes

from wardround_simulations.prediction.answers import Answer
from wardround_simulations.prediction.areas import Areas
from wardround_simulations.prediction.dicom.identity import Identity
from wardround_simulations.prediction.figures import Figures
from wardround_simulations.prediction.marks import Mark, Marks

Group = MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations


class Measured:
    """Makes the groups of one input.

    Attributes:
        part: of its file, as its name goes on; "" for the whole.
        frame: number of a frame of several, from 1; None of a file that is one image.
        segments: the input's segmentation, if it has one.
    """

    def __init__(
        self,
        identity: Identity,
        source: Dataset,
        *,
        part: str,
        frame: int | None,
        segments: Segmentation | None,
    ) -> None:
        self._identity, self._source, self._segments = identity, source, segments
        self._part = part
        self._frames = None if frame is None else [frame]

    def groups(self, answer: Answer) -> Sequence[Group]:
        """At least one.

        Raises:
            TypeError: no report can hold such answers.
        """
        match answer:
            case Figures():
                return [self._of_figures(answer)]
            case Areas():
                return [self._of_area(number, answer) for number in range(len(answer.pixels))]
            case Marks(marks=()):
                absent = self._identity.concept("N0", f"No {answer.name} marked")
                return [self._whole([], absent)]
            case Marks():
                marks = enumerate(answer.marks, start=1)
                return [self._of_mark(number, mark) for number, mark in marks]
        raise TypeError(type(answer))

    def _of_figures(self, answer: Figures) -> Group:
        """Every figure of the model, and calibrated where that is possible."""
        measured = [
            self._number(f"M{place}", name, value, ", by the model")
            for place, (name, value) in enumerate(answer.shown.items())
        ]
        shown = [*answer.shown]
        measured += [
            self._number(f"P{shown.index(name)}", name, value, ", calibrated probability")
            for name, value in (answer.calibrated or {}).items()
        ]
        found = None
        if answer.answer is not None:
            found = self._identity.named(self._identity.study.study.classes.index(answer.answer))
        return self._whole(measured, found)

    def _whole(
        self, measured: Sequence[Measurement], found: CodedConcept | None
    ) -> MeasurementsAndQualitativeEvaluations:
        """Of the input as a whole."""
        images = None
        if "Rows" in self._source:  # not a waveform
            named = self._source.SOPClassUID, self._source.SOPInstanceUID
            images = [SourceImageForMeasurementGroup(*named, self._frames)]
        return MeasurementsAndQualitativeEvaluations(
            self._tracked("whole"),
            finding_type=found,
            algorithm_id=self._identity.algorithm(),
            measurements=measured or None,
            source_images=images,
        )

    def _of_area(self, place: int, answer: Areas) -> Group:
        """Of one segment, which is of the study's next class: the first is what is around."""
        assert self._segments is not None
        name = [*answer.pixels][place]
        source = SourceImageForSegmentation(self._source.SOPClassUID, self._source.SOPInstanceUID)
        return PlanarROIMeasurementsAndQualitativeEvaluations(
            self._tracked(name),
            referenced_segment=ReferencedSegmentationFrame(
                self._segments.SOPClassUID,
                self._segments.SOPInstanceUID,
                frame_number=place + 1,
                segment_number=place + 1,
                source_image=source,
            ),
            finding_type=self._identity.named(place + 1),
            algorithm_id=self._identity.algorithm(),
            measurements=[
                self._number("A1", "Pixels of the original image", answer.pixels[name]),
                self._number("A2", "Share of the original image", answer.share(name)),
            ],
        )

    def _of_mark(self, number: int, mark: Mark) -> Group:
        """A point in the original image, column before row (PS3.3 C.18.6.1.2)."""
        source = SourceImageForRegion(
            self._source.SOPClassUID, self._source.SOPInstanceUID, self._frames
        )
        measured = [self._number("L1", "Score of the mark, no probability", mark.score)]
        if mark.false_marks is not None and mark.found is not None:
            measured += [
                self._number("L2", "False marks an image at this score", mark.false_marks),
                self._number("L3", "Share of lesions found at this score", mark.found),
            ]
        return PlanarROIMeasurementsAndQualitativeEvaluations(
            self._tracked(f"mark {number}"),
            referenced_region=ImageRegion(
                GraphicTypeValues.POINT, np.array([[mark.column, mark.row]]), source
            ),
            finding_type=self._identity.named(0),
            algorithm_id=self._identity.algorithm(),
            measurements=measured,
        )

    def _number(self, code: str, name: str, value: float, what: str = "") -> Measurement:
        concept = self._identity.concept(code, name, what)
        return Measurement(concept, value, codes.UCUM.NoUnits)

    def _tracked(self, what: str) -> TrackingIdentifier:
        name = self._identity.study.study.name
        return TrackingIdentifier(UID(), f"{name}{self._part}: {what}")
