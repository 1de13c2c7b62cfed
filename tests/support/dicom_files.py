"""Small DICOM files for tests. H, W = pixels."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from wardround_client.sources.dicom import read_dicom

RAMP = np.arange(12).reshape(3, 4)
FRAMES = np.stack([RAMP, RAMP + 20, RAMP + 40, RAMP + 60])


def image_of(path: Path, **settings) -> np.ndarray:
    """The one image of a file."""
    (reading,) = read_dicom(path, **settings)
    assert (reading.part, reading.sampling_rate) == ("", None)
    return reading.main


def write(path: Path, stored: np.ndarray, *, bits: int, signed: bool = False, **tags) -> Path:
    """A small file; `tags` override or add elements. `stored` is [H, W], or [frames, H, W]."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.PatientName = "Not^Read"
    dataset.PatientID = "not-read"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    if stored.ndim == 3:
        dataset.NumberOfFrames = len(stored)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 if bits <= 8 else 16
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    kind = f"{'i' if signed else 'u'}{dataset.BitsAllocated // 8}"
    dataset.PixelData = stored.astype(f"<{kind}").tobytes()
    dataset["PixelData"].VR = "OW"
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def group(**sequences) -> Dataset:
    """Functional groups: each macro is a sequence of one item with these elements."""
    groups = Dataset()
    for name, elements in sequences.items():
        item = Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        setattr(groups, name, Sequence([item]))
    return groups


def rescaled(slope, intercept) -> dict:
    return {"RescaleSlope": slope, "RescaleIntercept": intercept, "RescaleType": "US"}
