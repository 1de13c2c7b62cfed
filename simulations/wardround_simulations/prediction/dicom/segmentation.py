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

from wardround_simulations.prediction.dicom.identity import Identity

_SERIES_NUMBER = 9802


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
    """
    classes = range(1, len(identity.study.study.classes))
    segments = np.stack([mask == k for k in classes], axis=-1).astype(np.uint8)  # [H, W, K - 1]
    return Segmentation(
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


def _described(identity: Identity, number: int) -> SegmentDescription:
    """The segment of the study's class of this number.

    Whether a class is an organ, a lesion or a device, no study says: the category is the widest.
    """
    return SegmentDescription(
        number,
        identity.study.study.classes[number][:64],
        codes.SCT.SpatialAndRelationalConcept,
        identity.named(number),
        SegmentAlgorithmTypeValues.AUTOMATIC,
        identity.algorithm_of_segment(),
    )
