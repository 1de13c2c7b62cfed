"""The whole header of a DICOM file, for what is written about it: the one reader of the patient.

What refers to an image in a hospital's archive carries the image's patient and study. Nothing that
is read here is for anybody outside: no message quotes it, and no cache keeps it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from wardround_client.sources.dicom_header import DAMAGED
from wardround_client.sources.dicom_texts import require_characters, to_utf8
from wardround_client.sources.quiet import unheard
from wardround_shared.errors import UnreadableError

if TYPE_CHECKING:
    from pydicom import Dataset

# Without these nothing can refer to the file (PS3.3 C.12.1, C.7.2.1, C.7.3.1).
_NAMED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# Of the patient and the study (C.7.1.1, C.7.2.1): type 2, there but perhaps empty.
_PERHAPS_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)


def read_original(path: Path) -> "Dataset":
    """The header of a DICOM file, without its pixels; attributes of type 2 are there.

    Texts are to be written in UTF-8, whatever the file has them in.

    Raises:
        UnreadableError: it is no DICOM file, is damaged, nothing can refer to it, or its texts are
            not in the character set that it names.
        OSError: the system refuses the file.
    """
    import pydicom  # noqa: PLC0415 - slow to import
    from pydicom.errors import InvalidDicomError  # noqa: PLC0415

    with unheard("pydicom"):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            lacking = [name for name in _NAMED if not header.get(name)]
            to_utf8(header)
            for name in _PERHAPS_EMPTY:
                if name not in header:
                    setattr(header, name, "")
                require_characters(header, name)
        except UnreadableError:
            raise
        except InvalidDicomError as error:
            raise UnreadableError("the file is not a DICOM file") from error
        except OSError as error:
            if error.errno is None:  # raised by pydicom, over a sequence that ends too soon
                raise UnreadableError(DAMAGED) from error
            raise
        except Exception as error:  # a parser may raise anything on a damaged file
            raise UnreadableError(DAMAGED) from error
    if lacking:
        raise UnreadableError(f"nothing can refer to the DICOM file: it has no {lacking[0]}")
    return header
