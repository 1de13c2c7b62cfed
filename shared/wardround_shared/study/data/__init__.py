"""`[data]`: where a study's records lie and what they mean."""

from typing import Annotated

from pydantic import Field

from wardround_shared.study.data.cohort import IndexedData
from wardround_shared.study.data.columns import Feature, Join, Label, SiteKey, StaticFeature
from wardround_shared.study.data.fhir import FhirData
from wardround_shared.study.data.images import (
    DicomData,
    ImagesData,
    NiftiData,
    PhantomData,
    Places,
)
from wardround_shared.study.data.rows import TableData, TextData
from wardround_shared.study.data.signals import (
    DicomWaveformData,
    EdfData,
    RecordingsData,
    SequencesData,
    SignalsData,
    WfdbData,
    Windows,
)

AnySignals = SignalsData | WfdbData | RecordingsData
"""The sources whose examples are signals."""

AnyImages = ImagesData | DicomData | NiftiData
"""The sources whose examples are images, apart from phantoms, which are written as DICOM."""

WithStatic = AnySignals | AnyImages
"""The sources that may have columns of the index table beside the main part of an example."""

Data = Annotated[
    TableData
    | ImagesData
    | DicomData
    | NiftiData
    | WfdbData
    | EdfData
    | DicomWaveformData
    | SignalsData
    | SequencesData
    | FhirData
    | TextData
    | PhantomData,
    Field(discriminator="source"),
]

__all__ = [
    "AnyImages",
    "AnySignals",
    "Data",
    "DicomData",
    "DicomWaveformData",
    "EdfData",
    "Feature",
    "FhirData",
    "ImagesData",
    "IndexedData",
    "Join",
    "Label",
    "NiftiData",
    "PhantomData",
    "Places",
    "RecordingsData",
    "SequencesData",
    "SignalsData",
    "SiteKey",
    "StaticFeature",
    "TableData",
    "TextData",
    "WfdbData",
    "Windows",
    "WithStatic",
]
