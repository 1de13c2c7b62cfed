"""Single files for a model that is there already: read as in training, without label or site.

The readers are those of the study's source, so that an input cannot be read in another way than the
examples that the model has learned from.
"""

import csv
import dataclasses
import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.arrays import ArraySource
from wardround_client.sources.dicom import read_dicom
from wardround_client.sources.dicom_waveform import read_waveform
from wardround_client.sources.edf import read_edf
from wardround_client.sources.examples import Example
from wardround_client.sources.fhir import FhirSource
from wardround_client.sources.files import file_fault
from wardround_client.sources.image_file import read_image
from wardround_client.sources.images import image_source
from wardround_client.sources.input_columns import Beside, cells_beside, row_of
from wardround_client.sources.nifti import read_nifti, require_nibabel
from wardround_client.sources.records import RawRecord, Reading, SetAside
from wardround_client.sources.sequences import SequenceSource
from wardround_client.sources.signals import signal_source
from wardround_client.sources.table import table_source
from wardround_client.sources.targets import UNKNOWN
from wardround_client.sources.text import text_source
from wardround_client.sources.wfdb import WfdbSource
from wardround_shared.errors import DataError, UnreadableError
from wardround_shared.study import (
    DicomData,
    DicomWaveformData,
    EdfData,
    FhirData,
    ImagesData,
    IndexedData,
    NiftiData,
    PhantomData,
    SequencesData,
    SignalsData,
    Study,
    TableData,
    TextData,
    WfdbData,
)

Read = RawRecord | SetAside
D = TypeVar("D", bound=IndexedData)

_NOTHING = np.zeros(0)
_OF_TRAINING = ("label", "survival", "mask", "points", "site", "max_per_patient")
_KINDS = {
    "a table": (".csv", ".tsv"),
    "a PNG or JPEG image": (".png", ".jpg", ".jpeg"),
    "a DICOM file": (".dcm", ".dicom", ".ima"),
    "a file of arrays (npz)": (".npz",),
    "a WFDB record": (".hea", ".dat"),
    "an EDF file": (".edf",),
    "a NIfTI volume": (".nii", ".nii.gz"),
    "a FHIR Bundle": (".json", ".ndjson"),
}
_EXPECTED: dict[type, tuple[str, ...]] = {
    TableData: ("a table",),
    ImagesData: ("a PNG or JPEG image", "a file of arrays (npz)"),
    DicomData: ("a DICOM file",),
    PhantomData: ("a DICOM file",),
    DicomWaveformData: ("a DICOM file",),
    EdfData: ("an EDF file",),
    SignalsData: ("a file of arrays (npz)",),
    WfdbData: ("a WFDB record",),
    NiftiData: ("a NIfTI volume",),
    SequencesData: ("a file of arrays (npz)",),
    TextData: ("a table",),
    FhirData: ("a FHIR Bundle",),
}


def read_inputs(study: Study, path: Path, *, columns: Beside | None = None) -> Iterator[Read]:
    """The examples in one file, with names to show as their keys.

    Tables, npz files and NDJSON hold any number of examples; images and DICOM files one each, WFDB
    records one or, with an annotator, one for each beat. What cannot be read comes as a `SetAside`,
    whose reason may quote the file: it is for whoever owns it.

    Args:
        study: that the model was trained for.
        path: of the file; of a WFDB record with or without its ending.
        columns: beside images, recordings or WFDB records: a table with the names of the files or
            records, or the cells of one row.

    Raises:
        UnsupportedError: the library for such files is not installed.
    """
    name = str(path)
    try:
        _require_kind(study, path)
        yield from _records(study, path, columns)
    except DataError as error:
        reason = str(error).removeprefix(f"{name}: ").removeprefix(f"{path.name}: ")
        yield SetAside(key=name, site=None, reason=reason.rstrip("."))
    except OSError as error:
        yield SetAside(key=name, site=None, reason=file_fault(error))


def _records(study: Study, path: Path, columns: Beside | None) -> Iterator[Read]:
    match study.data:
        case TableData() as data:
            made = _unlabelled(study, data, path, {"patient": None, **_header(data, path)})
            yield from _named(table_source(made, _of(made, TableData), path.parent).records(), path)
        case ImagesData() as data if path.suffix.lower() == ".npz":
            made = _unlabelled(study, data, path, {"patient": None, "file": None})
            yield from _named(_arrays(made, path).records(), path)
        case SignalsData() as data:
            made = _unlabelled(study, data, path, _patient(data))
            yield from _named(_arrays(made, path).records(), path)
        case TextData() as data:
            made = _unlabelled(study, data, path, {"patient": None, **_header(data, path)})
            yield from _named(text_source(made, _of(made, TextData), path.parent).records(), path)
        case WfdbData() as data:
            yield from _wfdb(study, data, path, columns)
        case SequencesData() as data:
            yield from _sequence(study, data, path)
        case FhirData() as data:
            only = data.model_copy(update={"files": (glob.escape(path.name),)})
            source = FhirSource(study, only, path.parent, labelled=False)
            yield from _named(source.records(), path, called="file 1")
        case _:
            beside = cells_beside(study, path, columns)
            for one in _readings(study, path):
                yield _single(path, one, beside)


def _readings(study: Study, path: Path) -> Sequence[Reading]:
    """What a file holds that stands for itself, an image or a recording."""
    match study.data:
        case DicomData() as data:
            return read_dicom(path, voi=data.voi, frames=data.frames)
        case PhantomData():
            return read_dicom(path)
        case EdfData() as data:
            return read_edf(path, leads=data.leads, unit=data.unit, windows=data.windows)
        case NiftiData() as data:
            require_nibabel()
            return read_nifti(path, axis=data.axis, slices=data.slices)
        case DicomWaveformData() as data:
            return read_waveform(path, leads=data.leads, unit=data.unit, windows=data.windows)
    return (Reading(main=read_image(path)),)


def _require_kind(study: Study, path: Path) -> None:
    """Refuse a file whose ending belongs to another kind of data, and a folder."""
    expected = _EXPECTED[type(study.data)]
    if path.is_dir():
        raise DataError("this is a folder; name the files in it")
    found = next((kind for kind, ends in _KINDS.items() if path.name.lower().endswith(ends)), None)
    if found is not None and found not in expected:
        raise DataError(f"this is {found}, and the model takes {' or '.join(expected)}")
    if not path.exists() and not isinstance(study.data, WfdbData):  # named without an ending
        raise DataError("the file is not there")


def _single(path: Path, one: Reading, static: NDArray[np.float64] | None) -> RawRecord:
    return RawRecord(
        key=f"{path}{one.part}",
        patient=str(path),
        site=None,
        stratum=0,
        target=_NOTHING,
        main=one.main,
        static=static,
        sampling_rate=one.sampling_rate,
    )


# --- the study without what only training needs ----------------------------------------------


def _unlabelled(study: Study, data: IndexedData, path: Path, change: dict[str, Any]) -> Study:
    """The study with one file as all its data, and no label, site, filter or limit.

    A joined table is read where it lies beside the file; otherwise the file has its columns.
    """
    name = glob.escape(path.name)
    files = {"arrays": (name,)} if hasattr(data, "arrays") else {"table": (name,)}
    beside = tuple(join for join in data.join if (path.parent / join.file).is_file())
    nothing: dict[str, Any] = dict.fromkeys(_OF_TRAINING)
    update = {**nothing, "where": {}, "table": (), **files, "join": beside, **change}
    return study.model_copy(update={"data": data.model_copy(update=update)})


def _header(data: TableData | TextData, path: Path) -> dict[str, Any]:
    """A table that names its columns is read by the names, even if the study's have no header."""
    if data.header:
        return {}
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        first = [cell.strip() for cell in next(csv.reader(file, delimiter=data.delimiter), [])]
    if isinstance(data, TextData):
        needed = {*data.text}
    else:
        needed = {feature.column for feature in data.features}
    named = needed <= {*first}
    return {"header": True, "columns": ()} if named else {}


def _patient(data: SignalsData) -> dict[str, Any]:
    """The patient key is needed where an example is compared with others of its patient."""
    compared = data.patient_median or any(feature.form != "value" for feature in data.static)
    return {} if compared else {"patient": None}


def _arrays(study: Study, path: Path) -> ArraySource:
    if isinstance(study.data, SignalsData):
        return signal_source(study, study.data, path.parent)
    source = image_source(study, _of(study, ImagesData), path.parent)
    assert isinstance(source, ArraySource)  # `_unlabelled` gave it arrays
    return source


def _of(study: Study, kind: type[D]) -> D:
    assert isinstance(study.data, kind)
    return study.data


def _named(records: Iterator[Read], path: Path, *, called: str | None = None) -> Iterator[Read]:
    """The same with the whole path in the key, since inputs may come from several folders.

    Args:
        records: of one file.
        path: of it.
        called: what their keys call it; without it, by its name.
    """
    for record in records:
        rest = record.key.removeprefix(called or path.name)
        yield dataclasses.replace(record, key=f"{path}{rest}")


# --- sequences -------------------------------------------------------------------------------


def _sequence(study: Study, data: SequencesData, path: Path) -> Iterator[Read]:
    """The examples of one file; steps that are there have class 0 as their target."""
    made = _unlabelled(study, data, path, {"patient": None, "folder": ".", "table": (), "join": ()})
    if path.suffix != ".npz":
        raise UnreadableError("the file is no npz file")
    source = SequenceSource(made, _of(made, SequencesData), path.parent)
    whole = Example(row=0, key=str(path), patient=str(path), site=None, target=UNKNOWN)
    yield from source.examples_of(whole, path.stem)


# --- WFDB ------------------------------------------------------------------------------------


def _wfdb(study: Study, data: WfdbData, path: Path, columns: Beside | None) -> Iterator[Read]:
    record = path.with_suffix("") if path.suffix in {".hea", ".dat"} else path
    made = _unlabelled(
        study, data, record, {"patient": None, "folder": ".", "table": (), "join": ()}
    )
    only = _of(made, WfdbData)
    index = row_of(record, only, columns)
    source = WfdbSource(made, only, record.parent)
    for read in source.records_of(index):
        beat = read.key.removeprefix(index.positions[0])
        yield dataclasses.replace(read, key=f"{path}{beat}")
