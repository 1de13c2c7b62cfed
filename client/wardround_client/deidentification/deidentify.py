"""A folder of DICOM files -> a folder of de-identified ones, and counts."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wardround_client.deidentification.attributes import Attributes
from wardround_client.deidentification.pixels import pixel_element, require_known_syntax
from wardround_client.deidentification.project_key import ProjectKey
from wardround_client.deidentification.reading import read, silence
from wardround_client.deidentification.refusals import (
    Reason,
    refused,
    require_known_kind,
    require_no_text,
)
from wardround_client.deidentification.report import Report
from wardround_client.deidentification.tree import files_below, make_output, read_file
from wardround_client.deidentification.writing import state_method, written
from wardround_client.durable import private_folder, remove_unfinished, replace
from wardround_shared.consortium.files import why
from wardround_shared.errors import DataError, UnreadableError

if TYPE_CHECKING:
    from pydicom import FileDataset
    from pydicom.uid import UID


@dataclass(frozen=True, kw_only=True)
class _New:
    """A new file, and what stays at the site about it."""

    patient: str
    pseudonym: str
    uid: str
    content: bytes
    attributes: Attributes


def deidentify(
    source: Path,
    output: Path,
    *,
    key: ProjectKey,
    looked_at: frozenset[str] = frozenset(),
    table: Path | None = None,
    watch: Callable[[int, int], None] = lambda _done, _whole: None,
) -> Report:
    """De-identify every DICOM image of a folder.

    A file appears under its final name when it is whole. One that is refused leaves nothing.

    Args:
        source: a folder, or one file.
        output: a folder that is not there or empty.
        key: of the project.
        looked_at: modalities whose images are known to hold no text (`require_no_text`).
        table: file for lines of input, output, patient and pseudonym; it names patients.
        watch: is told how many files are done, and of how many.

    Raises:
        DataError: a folder cannot be read or written, or there is no DICOM file.
    """
    files = list(files_below(source))
    make_output(output, source=source)
    report, seen, patients = Report(), set[str](), set[str]()
    rows: list[tuple[str, str, str, str]] = []
    for done, file in enumerate(files, start=1):
        try:
            new = _new_file(read_file(file), key, looked_at)
            if new.uid in seen:
                raise refused(Reason.TWICE)
        except UnreadableError as error:
            report.reasons[str(error)] += 1
        else:
            place = Path(new.pseudonym) / f"{new.uid}.dcm"
            _write(output / place, new.content)
            rows.append((str(file), str(place), new.patient, new.pseudonym))
            seen.add(new.uid)
            patients.add(new.pseudonym)
            report.attributes.update(new.attributes.outcomes)
        watch(done, len(files))
    report.written, report.patients = len(seen), len(patients)
    if not seen and not report.refused:
        raise DataError(f"{source}: there is no DICOM file here; name the folder with the images.")
    if table is not None:
        _write(table, _lines(rows))
    return report


def _new_file(data: bytes, key: ProjectKey, looked_at: frozenset[str]) -> _New:
    """The whole way of one file, in memory.

    Raises:
        UnreadableError: with one of `Reason`.
    """
    with silence():
        try:
            return _rebuilt(read(data), key, looked_at)
        except UnreadableError:
            raise
        except Exception as error:  # whatever it is: its message may quote the file
            raise refused(Reason.DAMAGED) from error


def _rebuilt(source: "FileDataset", key: ProjectKey, looked_at: frozenset[str]) -> _New:
    require_known_kind(source)
    require_no_text(source, looked_at)
    syntax = _syntax(source)
    require_known_syntax(syntax)
    patient = _patient(source)
    order: Literal["little", "big"] = "little" if syntax.is_little_endian else "big"
    attributes = Attributes(key, patient=patient, order=order)
    new = attributes.rebuilt(source)
    new.PatientID = new.PatientName = pseudonym = key.pseudonym(patient)
    if not new.get("SOPInstanceUID"):
        raise refused(Reason.NO_INSTANCE)
    new.add(pixel_element(source, new, syntax))
    state_method(new)
    return _New(
        patient=patient,
        pseudonym=pseudonym,
        uid=str(new.SOPInstanceUID),
        content=written(new, syntax),
        attributes=attributes,
    )


def _syntax(source: "FileDataset") -> "UID":
    """The transfer syntax, or, of a file that does not say it, the one that it was read in."""
    from pydicom import uid  # noqa: PLC0415 - slow to import

    stated = source.file_meta.get("TransferSyntaxUID")
    if stated:
        return uid.UID(str(stated))
    implicit, little = source.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _patient(source: "FileDataset") -> str:
    try:
        patient = str(source.get("PatientID") or "").strip(" \0")
    except Exception as error:  # a parser may raise anything on a damaged value
        raise refused(Reason.DAMAGED) from error
    if not patient:
        raise refused(Reason.NO_PATIENT)
    return patient


def _write(file: Path, content: bytes) -> None:
    try:
        private_folder(file.parent)
        try:
            replace(file, [content])
        except BaseException:  # also when it is interrupted: no half of a file stays
            remove_unfinished(file.parent)
            raise
    except OSError as error:
        raise DataError(
            f"{file}: it cannot be written ({why(error)}); the files before it are whole, and the "
            "command starts anew in an empty folder."
        ) from error


def _lines(rows: list[tuple[str, str, str, str]]) -> bytes:
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(("input", "output", "patient", "pseudonym"))
    lines.writerows(rows)
    return text.getvalue().encode(errors="surrogateescape")
