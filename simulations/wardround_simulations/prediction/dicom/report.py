"""One answer as a structured report (PS3.3 A.35.3, PS3.16 TID 1500)."""

from collections.abc import Sequence

from highdicom import UID
from highdicom.sr import (
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from wardround_simulations.prediction.dicom.identity import NO_DEVICE, Identity
from wardround_simulations.prediction.dicom.measured import Group

# LOINC; a study does not say which procedure its images come from.
_PROCEDURE = Code("18748-4", "LN", "Diagnostic imaging study")
_SERIES_NUMBER = 9801


def make_report(
    identity: Identity,
    evidence: Sequence[Dataset],
    groups: Sequence[Group],
    *,
    warnings: Sequence[str],
    series: UID,
    number: int,
) -> ComprehensiveSR:
    """A complete and unverified report.

    Args:
        identity: of the model.
        evidence: the image, and its segmentation if there is one.
        groups: what the model has answered.
        warnings: how the image is unlike the training data.
        series: new, for the reports on one study of a patient.
        number: of the report in its series, from 1.
    """
    device = DeviceObserverIdentifyingAttributes(
        UID(), name="Wardround", model_name=identity.study.study.name
    )
    report = MeasurementReport(
        ObservationContext(observer_device_context=ObserverContext(codes.DCM.Device, device)),
        _PROCEDURE,
        groups,
    )
    unlike = [f"The input is unlike the training data: {one}." for one in warnings]
    for sentence in (NO_DEVICE, *unlike, identity.privacy, *identity.said):
        report[0].ContentSequence.append(
            TextContentItem(codes.DCM.Comment, sentence, RelationshipTypeValues.CONTAINS)
        )
    return ComprehensiveSR(
        evidence,
        report,
        series,
        _SERIES_NUMBER,
        instance_number=number,
        is_complete=True,
        series_description=f"Research: {identity.study.study.name}"[:64],
        **identity.equipment(),
    )
