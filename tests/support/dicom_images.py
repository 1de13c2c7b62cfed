"""Small DICOM images whose attributes a test chooses."""

from io import BytesIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

ROWS, COLUMNS = 3, 4


def image(**attributes) -> Dataset:
    """A CT image of 3 x 4 pixels; None takes an attribute away."""
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = "1.2.3.1"
    ds.StudyInstanceUID = "1.2.3.2"
    ds.SeriesInstanceUID = "1.2.3.3"
    ds.PatientID, ds.PatientName, ds.Modality = "4711", "Quist^Ingeborg", "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyDate = "20240229"
    ds.Rows, ds.Columns, ds.SamplesPerPixel = ROWS, COLUMNS, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    ds.PixelData = np.arange(ROWS * COLUMNS, dtype="<u2").tobytes()
    ds["PixelData"].VR = "OW"
    for name, value in attributes.items():
        if value is None:
            del ds[name]
        else:
            setattr(ds, name, value)
    return ds


def content(ds: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """The bytes of a file with the data set."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CTImageStorage)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3.1")
    if syntax.is_compressed and "PixelData" in ds and not syntax.is_deflated:
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    buffer = BytesIO()
    pydicom.dcmwrite(
        buffer,
        ds,
        force_encoding=True,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
    )
    return bytes(128) + b"DICM" + buffer.getvalue().removeprefix(bytes(128) + b"DICM")
