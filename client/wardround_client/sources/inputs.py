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
from wardround_client.sources.files import file_fault
from wardround_client.sources.image_file import read_image
from wardround_client.sources.images import image_source
from wardround_client.sources.index import Index, table_index
from wardround_client.sources.records import RawRecord, Reading, SetAside
from wardround_client.sources.signals import signal_source
from wardround_client.sources.static import read_static
from wardround_client.sources.table import TableSource
from wardround_client.sources.wfdb import OF_BEATS, WfdbSource
from wardround_shared.errors import DataError, UnreadableError, UnsupportedError
from wardround_shared.study import (
    DicomData,
    DicomWaveformData,
    EdfData,
    ImagesData,
    IndexedData,
    PhantomData,
    RecordingsData,
    SignalsData,
    Study,
    TableData,
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
}


def read_inputs(study: Study, path: Path, *, columns: Path | None = None) -> Iterator[Read]:
    """The examples in one file, with names to show as their keys.

    Tables and npz files hold any number of examples; images and DICOM files one each, WFDB records
    one or, with an annotator, one for each beat. What cannot be read comes as a `SetAside`, whose
    reason may quote the file: it is for whoever owns it.

    Args:
        study: that the model was trained for.
        path: of the file; of a WFDB record with or without its ending.
        columns: table of the columns beside images, recordings or WFDB records, with the names of
            the files or records.

    Raises:
        UnsupportedError: there is no way yet to read single files of the study's source.
    """
    if type(study.data) not in _EXPECTED:
        raise UnsupportedError(
            f'Single files of data.source = "{study.data.source}" cannot be read yet; wardround '
            "evaluate takes a folder."
        )
    name = str(path)
    try:
        _require_kind(study, path)
        yield from _records(study, path, columns)
    except DataError as error:
        reason = str(error).removeprefix(f"{name}: ").removeprefix(f"{path.name}: ")
        yield SetAside(key=name, site=None, reason=reason.rstrip("."))
    except OSError as error:
        yield SetAside(key=name, site=None, reason=file_fault(error))


def _records(study: Study, path: Path, columns: Path | None) -> Iterator[Read]:
    match study.data:
        case TableData() as data:
            made = _unlabelled(study, data, path, {"patient": None, **_header(data, path)})
            yield from _named(TableSource(made, _of(made, TableData), path.parent).records(), path)
        case ImagesData() as data if path.suffix.lower() == ".npz":
            made = _unlabelled(study, data, path, {"patient": None, "file": None})
            yield from _named(_arrays(made, path).records(), path)
        case SignalsData() as data:
            made = _unlabelled(study, data, path, _patient(data))
            yield from _named(_arrays(made, path).records(), path)
        case WfdbData() as data:
            yield from _wfdb(study, data, path, columns)
        case _:
            beside = _beside(study, path, columns)
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
        case DicomWaveformData() as data:
            return read_waveform(path, leads=data.leads, unit=data.unit, windows=data.windows)
    return (Reading(main=read_image(path)),)


def _require_kind(study: Study, path: Path) -> None:
    """Refuse a file whose ending belongs to another kind of data, and a folder."""
    expected = _EXPECTED[type(study.data)]
    if path.is_dir():
        raise DataError("this is a folder; name the files in it")
    found = next((kind for kind, ends in _KINDS.items() if path.suffix.lower() in ends), None)
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


def _beside(study: Study, path: Path, columns: Path | None) -> NDArray[np.float64] | None:
    """The cells [S] of a file's row, compared with the other rows of the table as in training.

    Raises:
        UnreadableError: there is no table, not one row, or the row cannot be used.
        DataError: the table lacks a column.
    """
    data = study.data
    if not isinstance(data, ImagesData | DicomData | RecordingsData) or not data.static:
        return None
    needed = ", ".join(feature.column for feature in data.static)
    if data.file is None:
        raise UnreadableError(
            f"the model takes {needed} beside the image, which the study has in arrays; name an "
            "npz file"
        )
    if columns is None:
        raise UnreadableError(
            f"the model takes {needed} beside the file; name a table that has {data.file} and "
            "these columns with --columns"
        )
    compared = any(feature.form != "value" for feature in data.static)
    bare = data.model_copy(update={"join": (), **({} if compared else {"patient": None})})
    table = table_index(bare, columns.parent, [columns])
    row = _own_row(table, data.file, path, columns)
    static = read_static(table, bare)
    return None if static is None else static.of(row)


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


def _header(data: TableData, path: Path) -> dict[str, Any]:
    """A table that names its columns is read by the names, even if the study's have no header."""
    if data.header:
        return {}
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        first = [cell.strip() for cell in next(csv.reader(file, delimiter=data.delimiter), [])]
    named = {feature.column for feature in data.features} <= set(first)
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


def _named(records: Iterator[Read], path: Path) -> Iterator[Read]:
    """The same with the whole path in the key, since inputs may come from several folders."""
    for record in records:
        rest = record.key.removeprefix(path.name)
        yield dataclasses.replace(record, key=f"{path}{rest}")


# --- WFDB ------------------------------------------------------------------------------------


def _wfdb(study: Study, data: WfdbData, path: Path, columns: Path | None) -> Iterator[Read]:
    record = path.with_suffix("") if path.suffix in {".hea", ".dat"} else path
    made = _unlabelled(
        study, data, record, {"patient": None, "folder": ".", "table": (), "join": ()}
    )
    only = _of(made, WfdbData)
    index = _row_of(record, only, columns)
    source = WfdbSource(made, only, record.parent)
    for read in source.records_of(index):
        beat = read.key.removeprefix(index.positions[0])
        yield dataclasses.replace(read, key=f"{path}{beat}")


def _row_of(record: Path, data: WfdbData, columns: Path | None) -> Index:
    """One row: the record's name, and its static columns from the table where there are any."""
    needed = [f.column for f in data.static if not data.annotator or f.column not in OF_BEATS]
    if not needed:
        return Index(
            columns={data.record: [record.name]},
            known=(data.record,),
            origins=[record.name],
            positions=[record.name],
            identities=[record.name],
            paths=[record.name],
            files=(record.name,),
        )
    if columns is None:
        raise UnreadableError(
            f"the model takes {', '.join(needed)} beside the signal; name a table that has "
            f"{data.record} and these columns with --columns"
        )
    table = table_index(data, columns.parent, [columns])
    found = table.take([_own_row(table, data.record, record, columns)])
    return dataclasses.replace(
        found,
        columns={**found.columns, data.record: [record.name]},
        identities=[record.name],
        paths=[record.name],
    )


def _own_row(table: Index, column: str, path: Path, columns: Path) -> int:
    """The one row of the table that names the file or record."""
    mine = [row for row, cell in enumerate(table.column(column)) if _names(cell, path)]
    if len(mine) != 1:
        raise UnreadableError(f"{len(mine) or 'no'} rows of {columns.name} are of this record")
    return mine[0]


def _names(cell: str, record: Path) -> bool:
    """Whether a cell names the record, by its whole path or the end of it."""
    parts = Path(cell).parts
    return bool(parts) and record.parts[-len(parts) :] == parts
