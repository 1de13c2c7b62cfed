"""The bytes of one file -> data set, in silence: pydicom's warnings quote values of the header."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

from wardround_client.deidentification.refusals import Reason, refused

if TYPE_CHECKING:
    from pydicom import FileDataset

_PREFIX_AT, _PREFIX = 128, b"DICM"
_DIRECTORY = "1.2.840.10008.1.3.10"
# First groups of a file without preamble: file meta, or the data set at once, in either byte order.
_FIRST_GROUPS = frozenset({b"\x02\x00", b"\x08\x00", b"\x00\x08"})


def read(data: bytes) -> "FileDataset":
    """Parse a file, with its preamble or without.

    Raises:
        UnreadableError: no DICOM file, a DICOMDIR, or a damaged file.
    """
    import pydicom  # noqa: PLC0415 - slow to import

    prefixed = data[_PREFIX_AT : _PREFIX_AT + len(_PREFIX)] == _PREFIX
    if not prefixed and (data[:2] not in _FIRST_GROUPS or data[2:4] == b"\0\0\0\0"):
        raise refused(Reason.NOT_DICOM)
    try:
        source = pydicom.dcmread(BytesIO(data), force=True)
        directory = (
            source.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY
            or "DirectoryRecordSequence" in source
        )
        known = "SOPClassUID" in source
    except Exception as error:  # a parser may raise anything on a damaged file
        raise refused(Reason.DAMAGED if prefixed else Reason.NOT_DICOM) from error
    if directory:
        raise refused(Reason.DIRECTORY)
    if not prefixed and not known:
        raise refused(Reason.NOT_DICOM)
    return source


@contextmanager
def silence() -> Iterator[None]:
    """Without pydicom's warnings and log lines."""
    log = logging.getLogger("pydicom")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
