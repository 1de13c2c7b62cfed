"""Why a file is not written: each reason is a fixed sentence and quotes nothing of the file."""

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from wardround_client.deidentification.tables import kept
from wardround_client.deidentification.values import listed
from wardround_shared.errors import UnreadableError

if TYPE_CHECKING:
    from pydicom import Dataset


class Reason(StrEnum):
    """Of a DICOM file that is refused, or of another one that is left out."""

    NOT_DICOM = "not a DICOM file"
    DIRECTORY = "a DICOMDIR, which lists patients"
    LINK = "a symbolic link, which may lead out of the folder"
    SPECIAL = "neither a file nor a folder"
    SYSTEM = "the system refuses to read the file"
    DAMAGED = "truncated or damaged"
    NO_PIXELS = "no pixel data"
    KIND = "not an image of a kind that is known here (PS3.4 SOP class)"
    SYNTAX = "a transfer syntax whose pixel data cannot be checked for text"
    NO_PATIENT = "no patient ID, so that nobody can say whose dates have to move together"
    NO_INSTANCE = "no SOP instance UID"
    TWICE = "another file has the same SOP instance UID"
    BURNED_IN = "burned-in annotation: the pixels hold text"
    CAPTURE = "an image of a screen or of paper, which holds text"
    FEATURES = "recognizable visual features: a face can be seen"
    UNSTATED = "the pixels may hold text: no statement that they do not (0028,0301)"
    OVERLAY = "an overlay in the pixels themselves, which cannot be taken out"


LEFT_OUT = frozenset({Reason.NOT_DICOM, Reason.DIRECTORY, Reason.LINK, Reason.SPECIAL})
"""Of files that are no images at all; the other reasons are of images that are refused."""

_QUIET_MODALITIES = frozenset({"CT", "MR", "PT", "NM", ""})
# Words that scanners and workstations write into Image Type when they save a screen or a report.
_CAPTURED = ("SCREEN", "SAVE", "CAPTURE", "DOSE", "REPORT", "PROTOCOL", "DOCUMENT")
# Conversion Type (PS3.3 C.8.6.1): scanned documents and images, film, video.
_PAPER = frozenset({"SD", "SI", "DF", "DV"})


def refused(reason: Reason) -> UnreadableError:
    """The error of a file that is not written."""
    return UnreadableError(reason.value)


def require_known_kind(source: "Dataset") -> None:
    """Refuse what is no image, or one of a kind whose attributes nobody has looked at.

    Raises:
        UnreadableError: by its SOP class.
    """
    tables = kept()
    if _word(source, "SOPClassUID") not in tables.quiet | tables.others:
        raise refused(Reason.KIND)


def require_no_text(source: "Dataset", looked_at: frozenset[str]) -> None:
    """Refuse an image whose pixels may show who the patient is.

    CT, MR, PET and nuclear medicine images in grey, as the scanner made them, hold no text. Any
    other has to say so: Burned In Annotation (0028,0301) = NO (PS3.3 C.7.6.1).

    Args:
        source: as it was read.
        looked_at: modalities of whose images a person has said that they hold no text; replaces the
            statement where it is missing, and nothing else.

    Raises:
        UnreadableError: the reason.
    """
    stated = _word(source, "BurnedInAnnotation")
    if stated == "YES":
        raise refused(Reason.BURNED_IN)
    if _word(source, "RecognizableVisualFeatures") == "YES":
        raise refused(Reason.FEATURES)
    types = [str(value).upper() for value in _values(source, "ImageType")]
    conversion = _word(source, "ConversionType")
    if conversion in _PAPER or any(word in one for word in _CAPTURED for one in types):
        raise refused(Reason.CAPTURE)
    if stated == "NO" or _is_quiet(source, types, conversion):
        return
    captured = _word(source, "SOPClassUID").startswith("1.2.840.10008.5.1.4.1.1.7")
    if captured or conversion or _word(source, "Modality") not in looked_at:
        raise refused(Reason.UNSTATED)


def _is_quiet(source: "Dataset", types: list[str], conversion: str) -> bool:
    return (
        _word(source, "SOPClassUID") in kept().quiet
        and _word(source, "Modality") in _QUIET_MODALITIES
        and _word(source, "PhotometricInterpretation") in {"MONOCHROME1", "MONOCHROME2"}
        and not conversion
        and "SECONDARY" not in types
    )


def _word(source: "Dataset", keyword: str) -> str:
    values = _values(source, keyword)
    return str(values[0]).strip(" \0").upper() if len(values) == 1 else ""


def _values(source: "Dataset", keyword: str) -> tuple[Any, ...]:
    try:
        return listed(source.get(keyword))
    except Exception as error:  # a parser may raise anything on a damaged value
        raise refused(Reason.DAMAGED) from error
