"""One radiograph as a DICOM file: a Secondary Capture image (PS3.3 A.8.1) of a synthetic subject.

Secondary Capture is the honest choice: no X-ray machine ever saw the phantom, and conversion type
SYN and "quality control subject" say so in the file. No person's name, date or place is written.
"""

import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage

from wardround_simulations.phantom.scanner import Scanner

# Names the identifiers below; any fixed UUID does, it only must never change.
_NAMESPACE = uuid.UUID("6f1d8f0e-6a53-5d0c-9b1b-3c1f7c6a2e55")


def derived_uid(*names: object) -> UID:
    """A UID under 2.25 (PS3.5 B.2) that depends on nothing but `names`."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, names))).int}")


def write_radiograph(
    path: Path,
    pixels: NDArray[np.integer],
    scanner: Scanner,
    *,
    patient: str,
    institution: str,
    names: tuple[object, ...],
) -> None:
    """Write one file.

    Args:
        path: the file to write; its folder exists.
        pixels: stored values [S, S] as `Scanner.expose` gives them.
        scanner: gives bits, sign, photometric interpretation, rescale and transfer syntax.
        patient: synthetic patient key.
        institution: name of the virtual hospital.
        names: whatever tells this image from every other; its UIDs derive from it.
    """
    image = Dataset()
    _identify(image, patient=patient, institution=institution, names=names)
    _describe(image, scanner)
    _set_pixels(image, pixels, scanner)
    image.file_meta = _file_meta(image)
    if scanner.transfer_syntax == RLELossless:
        # pydicom's own encoder, so that the bytes do not depend on what else is installed.
        image.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    else:
        image.file_meta.TransferSyntaxUID = UID(scanner.transfer_syntax)
    image.save_as(path, enforce_file_format=True)


def _identify(image: Dataset, *, patient: str, institution: str, names: tuple[object, ...]) -> None:
    """Patient, study, series and SOP common modules (PS3.3 C.7.1 to C.7.3, C.12.1)."""
    image.SOPClassUID = SecondaryCaptureImageStorage
    image.SOPInstanceUID = derived_uid("image", *names)
    image.StudyInstanceUID = derived_uid("study", *names)
    image.SeriesInstanceUID = derived_uid("series", *names)
    image.PatientID = patient
    image.QualityControlSubject = "YES"
    for empty in ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
        setattr(image, empty, "")
    for empty in ("AccessionNumber", "ReferringPhysicianName", "StudyID"):
        setattr(image, empty, "")
    image.InstitutionName = institution
    image.SeriesNumber, image.InstanceNumber = 1, 1


def _describe(image: Dataset, scanner: Scanner) -> None:
    """Series, equipment and general image modules (PS3.3 C.7.5.1, C.8.6.1, C.7.6.1)."""
    image.Modality = "OT"
    image.ConversionType = "SYN"
    image.BodyPartExamined = "CHEST"
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.PatientOrientation = ["L", "F"]
    image.BurnedInAnnotation = "NO"
    image.Manufacturer = scanner.manufacturer
    image.ManufacturerModelName = scanner.model
    image.DeviceSerialNumber = scanner.serial


def _set_pixels(image: Dataset, pixels: NDArray[np.integer], scanner: Scanner) -> None:
    """Image pixel and modality LUT modules, and a window for viewers (PS3.3 C.7.6.3, C.11)."""
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME1" if scanner.inverted else "MONOCHROME2"
    image.BitsAllocated = 8 * pixels.dtype.itemsize
    image.BitsStored, image.HighBit = scanner.bits, scanner.bits - 1
    image.PixelRepresentation = int(scanner.signed)
    image.RescaleSlope, image.RescaleIntercept = scanner.slope, scanner.intercept
    image.RescaleType = "US"
    span = scanner.slope * (1 << scanner.bits)
    image.WindowCenter = scanner.slope * scanner.lowest + scanner.intercept + 0.5 * span
    image.WindowWidth = span
    image.PixelData = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<"))).tobytes()
    image["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"


def _file_meta(image: Dataset) -> FileMetaDataset:
    """File meta information (PS3.10 7.1); the implementation is ours, not pydicom's release."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = image.SOPClassUID
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    meta.ImplementationClassUID = derived_uid("implementation", 1)
    meta.ImplementationVersionName = "WARDROUND_1"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta
