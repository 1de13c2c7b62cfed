"""The only code that opens patient files: a data folder becomes raw records.

`open_source` is the public face; each other module reads one kind of file or one part of it.
"""

from pathlib import Path

from wardround_client.sources.dicom import dicom_source
from wardround_client.sources.dicom_waveform import waveform_source
from wardround_client.sources.edf import edf_source
from wardround_client.sources.fhir import FhirSource
from wardround_client.sources.files import data_folder
from wardround_client.sources.images import image_source
from wardround_client.sources.nifti import nifti_source
from wardround_client.sources.records import RawRecord, SetAside, Source
from wardround_client.sources.sequences import SequenceSource
from wardround_client.sources.signals import signal_source
from wardround_client.sources.table import table_source
from wardround_client.sources.text import text_source
from wardround_client.sources.wfdb import WfdbSource
from wardround_shared.study import (
    DicomData,
    DicomWaveformData,
    EdfData,
    FhirData,
    ImagesData,
    NiftiData,
    PhantomData,
    SequencesData,
    SignalsData,
    SiteKey,
    Study,
    TableData,
    TextData,
    WfdbData,
)

__all__ = ["RawRecord", "SetAside", "Source", "open_source"]


def open_source(  # noqa: C901, PLR0911 - one for each source
    study: Study, folder: Path, *, burned_in: bool = False
) -> Source:
    """Find the study's files in a data folder; none is opened before records are asked for.

    Args:
        study: as it is.
        folder: with the data.
        burned_in: whether whoever keeps the data allows images whose header says that text is
            burned in; a study of a hospital has no say in it.

    Raises:
        DataError: the folder or a file that the study names is not there.
        StudyError: the study names files outside the folder, or wants a package that is not
            installed.
    """
    data_folder(folder)
    match study.data:
        case TableData() as data:
            return table_source(study, data, folder)
        case ImagesData() as data:
            return image_source(study, data, folder)
        case DicomData() as data:
            return dicom_source(study, data, folder, burned_in=burned_in)
        case NiftiData() as data:
            return nifti_source(study, data, folder)
        case WfdbData() as data:
            return WfdbSource(study, data, folder)
        case SequencesData() as data:
            return SequenceSource(study, data, folder)
        case EdfData() as data:
            return edf_source(study, data, folder)
        case DicomWaveformData() as data:
            return waveform_source(study, data, folder)
        case SignalsData() as data:
            return signal_source(study, data, folder)
        case FhirData() as data:
            return FhirSource(study, data, folder)
        case TextData() as data:
            return text_source(study, data, folder)
        case PhantomData() as data:
            written = _written_phantoms(data)
            return dicom_source(study.model_copy(update={"data": written}), written, folder)


def _written_phantoms(data: PhantomData) -> DicomData:
    """How a folder of written phantoms reads: `labels.csv` names file, site, patient, finding."""
    return DicomData(
        source="dicom",
        table=("labels.csv",),
        file="file",
        label=data.label,
        mask=data.mask,
        points=data.points,
        patient="patient",
        site=SiteKey(column="site"),
        **{"validation-fraction": data.validation_fraction},
        **{"unreadable-share": data.unreadable_share},
        **{"max-per-patient": data.max_per_patient},
    )
