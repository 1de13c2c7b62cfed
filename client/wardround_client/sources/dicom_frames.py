"""Frames of a DICOM image: decoded, and taken to the units of the modality or to RGB.

H, W = pixels.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wardround_shared.errors import UnreadableError

if TYPE_CHECKING:
    from pydicom import Dataset

_GREY = {"MONOCHROME1", "MONOCHROME2"}
# pydicom turns the first two kinds of YBR into RGB, and the codec of JPEG 2000 the other two.
_COLOURS = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}
_PALETTE = "PALETTE COLOR"
_JP2 = b"\x00\x00\x00\x0cjP  "
# What the modality and VOI transforms of one frame look at.
_OF_IMAGE = (
    "PhotometricInterpretation",
    "BitsStored",
    "PixelRepresentation",
    "ModalityLUTSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
)
_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


class FrameReader:
    """The frames of one file, each decoded when it is asked for."""

    def __init__(self, dataset: "Dataset", count: int, *, voi: bool) -> None:
        """Check that these are images that can be read.

        Raises:
            UnreadableError: they are not.
        """
        self._dataset, self._voi = dataset, voi
        self._kind = dataset.get("PhotometricInterpretation")
        _require_pixels(dataset, self._kind)
        self._groups = _functional_groups(dataset, count)

    def read(self, number: int) -> NDArray[Any]:
        """One frame, counted from 0: grey float32 [H, W], or colour [H, W, 3].

        Raises:
            UnreadableError: the pixel data are damaged, or there is no codec for them.
        """
        _require_codec(self._dataset)
        try:
            _require_boxes(self._dataset)
            return self._frame(number)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # each codec has its own, and one in Rust panics
            raise UnreadableError(_pixel_fault(self._dataset)) from error

    def _frame(self, number: int) -> NDArray[Any]:
        from pydicom.pixels.processing import apply_color_lut  # noqa: PLC0415 - slow to import
        from pydicom.pixels.utils import pixel_array  # noqa: PLC0415

        stored: NDArray[Any] = pixel_array(self._dataset, index=number)
        if self._kind == _PALETTE:
            stored = apply_color_lut(stored, self._dataset)
            if stored.dtype != np.uint8:
                # A table of 16 bits, so that images with tables of either kind are alike.
                stored = (stored >> 8).astype(np.uint8)
        if self._kind not in _GREY:
            _require_shape(stored, 3)
            return stored
        image = _grey(stored, self._of_frame(number), voi=self._voi)
        _require_shape(image, 2)
        return image

    def _of_frame(self, number: int) -> "Dataset":
        """What the transforms of a frame look at; its functional groups supersede the image's."""
        from pydicom import Dataset  # noqa: PLC0415 - slow to import

        values = Dataset()
        for keyword in _OF_IMAGE:
            if keyword in self._dataset:
                values[keyword] = self._dataset[keyword]
        for groups in (self._groups[0], self._groups[1 + number] if self._groups[1:] else None):
            for name in _GROUPS:
                for item in [] if groups is None else groups.get(name) or []:
                    values.update(item)
        return values


def _require_pixels(dataset: "Dataset", kind: object) -> None:
    if "PixelData" not in dataset:
        raise UnreadableError("the DICOM file has no pixel data or is truncated")
    if kind not in {*_GREY, *_COLOURS, _PALETTE}:
        raise UnreadableError("the DICOM image is neither grey nor in colours that are known")
    samples = 3 if kind in _COLOURS else 1
    if dataset.get("SamplesPerPixel") != samples:
        raise UnreadableError("the DICOM image does not have the samples of its kind of colour")
    bits, stored = dataset.get("BitsAllocated"), dataset.get("BitsStored")
    if bits not in {8, 16} or not isinstance(stored, int) or not 1 <= stored <= bits:
        raise UnreadableError("the DICOM image does not have 8 to 16 bits")
    if samples == 3 and (stored != bits or dataset.get("PixelRepresentation") == 1):
        raise UnreadableError("the DICOM colour image has bits that are not used, or a sign")
    if dataset.get("HighBit", stored - 1) != stored - 1:
        raise UnreadableError("the DICOM image has its bits in an unusual place")


def _functional_groups(dataset: "Dataset", count: int) -> list["Dataset | None"]:
    """The groups that all frames share, then those of each frame if there are any."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if len(shared) > 1 or len(own) not in {0, count}:
        raise UnreadableError("the DICOM file does not describe as many frames as it has")
    return [shared[0] if shared else None, *own]


def _require_codec(dataset: "Dataset") -> None:
    """Refuse a compressed image that nothing here can decode, with the name of the syntax."""
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415 - slow to import

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    try:
        known = syntax is not None and get_decoder(syntax).is_available
    except NotImplementedError:
        raise UnreadableError("the DICOM file's transfer syntax is none for images") from None
    if not known:
        raise UnreadableError(
            "the DICOM file does not say its transfer syntax"
            if syntax is None
            else f"there is no codec here for {syntax.name}; install wardround[codecs]"
        )


def _require_boxes(dataset: "Dataset") -> None:
    """Refuse a JP2 file format header with a box of no length (ISO/IEC 15444-1 I.4).

    pydicom 3.0.2 would go through its boxes for ever.
    """
    data: bytes = dataset.PixelData
    start = data.find(_JP2)
    while dataset.file_meta.TransferSyntaxUID.is_compressed and start >= 0:
        place = start + 12
        while data[place + 4 : place + 8] != b"jp2c":
            length = int.from_bytes(data[place : place + 4], "big")
            if length < 8:
                raise ValueError(length)
            place += length
        start = data.find(_JP2, place)


def _pixel_fault(dataset: "Dataset") -> str:
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        return (
            f"the pixel data cannot be decoded: damaged, or of a kind of {syntax.name} that no "
            "installed codec reads (wardround[codecs] has more)"
        )
    return "the pixel data is truncated or damaged"


def _require_shape(image: NDArray[Any], axes: int) -> None:
    if image.ndim != axes or not image.size or (axes == 3 and image.shape[2] != 3):
        raise ValueError(image.shape)


def _grey(stored: NDArray[Any], values: "Dataset", *, voi: bool) -> NDArray[np.float32]:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut  # noqa: PLC0415

    image: NDArray[Any] = apply_modality_lut(stored, values)
    low, high = _modality_range(values)
    if voi:
        image = apply_voi_lut(image, values)
        if values.get("VOILUTSequence"):
            low, high = 0.0, 2.0 ** values.VOILUTSequence[0].LUTDescriptor[2] - 1
    if values.PhotometricInterpretation == "MONOCHROME1":
        image = (low + high) - image.astype(np.float64)
    return image.astype(np.float32)


def _modality_range(values: "Dataset") -> tuple[float, float]:
    """Least and greatest value that the file can represent after the modality transform."""
    if values.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** values.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    bits = int(values.BitsStored)
    signed = values.get("PixelRepresentation") == 1
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    slope = values.get("RescaleSlope")
    intercept = values.get("RescaleIntercept")
    if slope is None or intercept is None:
        return low, high
    return low * float(slope) + float(intercept), high * float(slope) + float(intercept)
