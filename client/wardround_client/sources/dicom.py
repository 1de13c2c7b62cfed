"""`source = "dicom"`: DICOM files named by a label table. H, W = pixels.

Only the tags of `ALLOWED_TAGS` are parsed. A DICOM header names the patient, the physician and
the institution dozens of times; what is never read cannot leak into a message, a log or a cache.
Patient, label and site come from the label table.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.labelled import LabelledFiles
from wardround_shared.errors import UnreadableError
from wardround_shared.study import DicomData, Study

if TYPE_CHECKING:
    from pydicom import Dataset

# Image Pixel (PS3.3 C.7.6.3), Modality LUT (C.11.1) and VOI LUT (C.11.2) modules. With these
# pydicom reads the file meta group and Specific Character Set, and nothing else.
ALLOWED_TAGS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ModalityLUTSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PixelData",
)
_ENDINGS = (".dcm", ".dicom", ".ima")


def dicom_source(study: Study, data: DicomData, folder: Path) -> LabelledFiles:
    """DICOM files, one image each."""
    read = partial(read_dicom, voi=data.voi)
    return LabelledFiles(study, data, folder, read=read, endings=_ENDINGS)


def read_header(path: Path) -> "Dataset":
    """The allowed tags of a DICOM file, pixel data included but not decoded.

    Raises:
        UnreadableError: not a DICOM file (PS3.10), or damaged.
        OSError: the system refuses the file.
    """
    import pydicom  # noqa: PLC0415 - slow to import
    from pydicom.errors import InvalidDicomError  # noqa: PLC0415

    try:
        return pydicom.dcmread(path, specific_tags=[*ALLOWED_TAGS])
    except InvalidDicomError as error:
        raise UnreadableError("the file is not a DICOM file") from error
    except OSError:
        raise
    except Exception as error:  # a parser may raise anything on a damaged file
        raise UnreadableError("the DICOM file is truncated or damaged") from error


def read_dicom(path: Path, *, voi: bool = False) -> NDArray[np.float32]:
    """One single-frame greyscale image in modality units (CT: Hounsfield units).

    Stored values of 8 to 16 bit, signed or not, in any transfer syntax that an installed pydicom
    plugin decodes, go through the modality LUT or rescale (PS3.3 C.11.1), then, with `voi`,
    through the VOI LUT or the first window (C.11.2). MONOCHROME1 is inverted within the range
    that the file can represent, so that more is brighter in every image.

    Returns:
        float32 [H, W].

    Raises:
        UnreadableError: no DICOM, no such image, truncated, or no codec.
        OSError: the system refuses the file.
    """
    with warnings.catch_warnings():
        # pydicom's warnings quote values of the header.
        warnings.simplefilter("ignore")
        dataset = read_header(path)
        _require_greyscale(dataset)
        try:
            return _image(dataset, voi=voi)
        except Exception as error:  # each codec has its own
            raise UnreadableError(_pixel_fault(dataset)) from error


def _require_greyscale(dataset: "Dataset") -> None:
    if "PixelData" not in dataset:
        raise UnreadableError("the DICOM file has no pixel data or is truncated")
    if dataset.get("PhotometricInterpretation") not in {"MONOCHROME1", "MONOCHROME2"}:
        raise UnreadableError("the DICOM image is not greyscale")
    bits, stored = dataset.get("BitsAllocated"), dataset.get("BitsStored")
    if bits not in {8, 16} or not isinstance(stored, int) or not 1 <= stored <= bits:
        raise UnreadableError("the DICOM image does not have 8 to 16 bits")
    if dataset.get("HighBit", stored - 1) != stored - 1:
        raise UnreadableError("the DICOM image has its bits in an unusual place")
    if str(dataset.get("NumberOfFrames") or 1) != "1":
        raise UnreadableError("the DICOM file has more than one frame")


def _pixel_fault(dataset: "Dataset") -> str:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_compressed:
        return f"the pixel data cannot be decoded: damaged, or no codec for {syntax.name}"
    return "the pixel data is truncated or damaged"


def _image(dataset: "Dataset", *, voi: bool) -> NDArray[np.float32]:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut  # noqa: PLC0415

    stored: NDArray[Any] = dataset.pixel_array
    values: NDArray[Any] = apply_modality_lut(stored, dataset)
    low, high = _modality_range(dataset)
    if voi:
        values = apply_voi_lut(values, dataset)
        if dataset.get("VOILUTSequence"):
            low, high = 0.0, 2.0 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = (low + high) - values.astype(np.float64)
    if values.ndim != 2:
        raise ValueError(values.shape)
    return values.astype(np.float32)


def _modality_range(dataset: "Dataset") -> tuple[float, float]:
    """Least and greatest value that the file can represent after the modality transform."""
    if dataset.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    bits = int(dataset.BitsStored)
    signed = dataset.get("PixelRepresentation") == 1
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    slope = dataset.get("RescaleSlope")
    intercept = dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return low, high
    return low * float(slope) + float(intercept), high * float(slope) + float(intercept)
