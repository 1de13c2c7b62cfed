"""One answer as a segmentation object (PS3.3 A.51). K = classes, H, W = pixels of the image."""

import numpy as np
from highdicom import UID
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes

from wardround_shared.errors import UnreadableError
from wardround_simulations.prediction.dicom.identity import Identity, long_string

_SERIES_NUMBER = 9802
_PLACE = ("FrameOfReferenceUID", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")


def make_segmentation(
    identity: Identity, source: Dataset, mask: NDArray[np.uint8], *, series: UID, number: int
) -> Segmentation:
    """A binary segment for each class but the first, also where nothing is of that class.

    Args:
        identity: of the model.
        source: header of the image, which has one frame.
        mask: numbers of classes [H, W], on the pixels of the image.
        series: new, for the segmentations of one study of a patient.
        number: of the segmentation in its series, from 1.

    Raises:
        UnreadableError: the image does not tell where its pixels lie, and its kind has to.
    """
    classes = range(1, len(identity.study.study.classes))
    spaced = any(one.get("SpacingBetweenSlices") for one in (source, *_measures(source)))
    # The library asks for it; an image need not have it, and a segment neither (C.7.6.16.2.1).
    source.setdefault("SliceThickness", None)
    if not source.get("FrameOfReferenceUID"):  # empty
        source.pop("FrameOfReferenceUID", None)
    segments = np.stack([mask == k for k in classes], axis=-1).astype(np.uint8)  # [H, W, K - 1]
    try:
        made = Segmentation(
            [source],
            segments[None],
            SegmentationTypeValues.BINARY,
            [_described(identity, k) for k in classes],
            series,
            _SERIES_NUMBER,
            instance_number=number,
            # An empty segment says that nothing was found; a missing one would say nothing.
            omit_empty_frames=False,
            content_description="Research: this is not a medical device",
            series_description=f"Research: {identity.study.study.name}"[:64],
            **identity.equipment(),
        )
    except (AttributeError, TypeError, ValueError) as error:
        if (lacking := _lacking(source)) is None:
            raise
        raise UnreadableError(
            f"its answer cannot be written as a DICOM segmentation: the image has no {lacking}"
        ) from error
    if not spaced:  # of one slice the library says 1 mm, which nobody has measured
        for measures in _measures(made):
            measures.pop("SpacingBetweenSlices", None)
    return made


def _lacking(source: Dataset) -> str | None:
    """What an image that has a place in the patient does not tell of it, if anything."""
    if "ImagePositionPatient" not in source:  # a radiograph, or in functional groups
        return None
    return next((name for name in _PLACE if not source.get(name)), None)


def _measures(image: Dataset) -> list[Dataset]:
    """Where the sizes of pixels are, of an image with functional groups."""
    groups = image.get("SharedFunctionalGroupsSequence") or []
    return [one for group in groups for one in group.get("PixelMeasuresSequence") or []]


def _described(identity: Identity, number: int) -> SegmentDescription:
    """The segment of the study's class of this number.

    Whether a class is an organ, a lesion or a device, no study says: the category is the widest.
    """
    return SegmentDescription(
        number,
        long_string(identity.study.study.classes[number]),
        codes.SCT.SpatialAndRelationalConcept,
        identity.named(number),
        SegmentAlgorithmTypeValues.AUTOMATIC,
        identity.algorithm_of_segment(),
    )
