"""The bytes of a new file (PS3.10), with what PS3.15 E.1.1 wants said about what was done."""

from io import BytesIO
from typing import TYPE_CHECKING

from wardround_client.deidentification.attributes import PIXELS, code_item
from wardround_client.deidentification.refusals import Reason, refused
from wardround_client.deidentification.tables import EDITION

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

METHOD = f"Wardround: PS3.15 {EDITION} Annex E, unknown attributes removed"
# Context group 7050 of PS3.16: the profile, and the option by which dates are shifted.
_OPTIONS = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
)
_IMPLEMENTATION = "2.25.195882107464026158923120366431834116441"


def state_method(new: "Dataset") -> None:
    """Write into a data set that it was de-identified, and how."""
    from pydicom.sequence import Sequence  # noqa: PLC0415 - slow to import

    new.PatientIdentityRemoved = "YES"
    new.DeidentificationMethod = METHOD
    new.DeidentificationMethodCodeSequence = Sequence(
        [code_item("DCM", value, meaning) for value, meaning in _OPTIONS]
    )
    new.LongitudinalTemporalInformationModified = "MODIFIED"


def written(new: "Dataset", syntax: "UID") -> bytes:
    """The file: a preamble of zeros, file meta information of our own, the data set.

    Raises:
        UnreadableError: the values do not make a file that can be read again.
    """
    import pydicom  # noqa: PLC0415 - slow to import

    new.file_meta = _file_meta(new, syntax)
    buffer = BytesIO()
    try:
        pydicom.dcmwrite(buffer, new, enforce_file_format=True)
        _require_same(new, pydicom.dcmread(BytesIO(buffer.getvalue())))
    except Exception as error:  # a writer may raise anything on values that contradict another
        raise refused(Reason.DAMAGED) from error
    return buffer.getvalue()


def _file_meta(new: "Dataset", syntax: "UID") -> "FileMetaDataset":
    from pydicom.dataset import FileMetaDataset  # noqa: PLC0415 - slow to import
    from pydicom.uid import UID  # noqa: PLC0415

    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = new.SOPClassUID
    meta.MediaStorageSOPInstanceUID = new.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = UID(_IMPLEMENTATION)
    meta.ImplementationVersionName = "WARDROUND"
    return meta


def _require_same(new: "Dataset", again: "Dataset") -> None:
    """What was meant is what a reader finds."""
    if set(again.keys()) != set(new.keys()) or again[PIXELS].value != new[PIXELS].value:
        raise ValueError(len(again))
    for element in again:  # of which each is converted, and so is read for certain
        if element.tag.is_private:
            raise ValueError(element.tag)
