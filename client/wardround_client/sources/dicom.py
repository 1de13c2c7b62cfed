"""`source = "dicom"`: DICOM images named by a label table. H, W = pixels.

Only the tags of `ALLOWED_TAGS` are parsed, at any depth. Patient, label and site come from the
label table. Overlays (PS3.3 C.9) are no pixels and are never merged into the image.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wardround_client.sources.dicom_frames import FrameReader
from wardround_client.sources.dicom_header import DAMAGED, read_tags
from wardround_client.sources.labelled import LabelledFiles
from wardround_client.sources.places import chosen
from wardround_client.sources.quiet import unheard
from wardround_client.sources.records import Reading
from wardround_shared.errors import UnreadableError
from wardround_shared.study import DicomData, Places, Study

if TYPE_CHECKING:
    from pydicom import Dataset

# Image Pixel (PS3.3 C.7.6.3), Modality LUT (C.11.1) and VOI LUT (C.11.2) modules, the functional
# groups that take their place in enhanced images (C.7.6.16.2.9 and 10), and whether text is burned
# into the image (C.7.6.1). With these pydicom reads the file meta group and Specific Character
# Set, and nothing else.
ALLOWED_TAGS = (
    "BurnedInAnnotation",
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
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "ModalityLUTSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "VOILUTSequence",
    "LUTDescriptor",
    "LUTData",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PixelData",
    # Where the frames of compressed pixel data begin (C.7.6.3.1.8).
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
_ENDINGS = (".dcm", ".dicom", ".ima")


def dicom_source(
    study: Study, data: DicomData, folder: Path, *, burned_in: bool = False
) -> LabelledFiles:
    """DICOM files, of one image or several frames each.

    Args:
        study: as it is.
        data: its data section.
        folder: data folder.
        burned_in: whether whoever keeps the data allows images with text in them.
    """
    read = partial(read_dicom, voi=data.voi, frames=data.frames, burned_in=burned_in)
    return LabelledFiles(study, data, folder, read=read, endings=_ENDINGS)


def read_dicom(
    path: Path, *, voi: bool = False, frames: Places | None = None, burned_in: bool = False
) -> tuple[Reading, ...]:
    """The image of a DICOM file, or the frames of it that a study takes.

    Grey images come as float32 [H, W] in modality units (CT: Hounsfield units): stored values of
    8 to 16 bit, signed or not, go through the modality LUT or rescale (PS3.3 C.11.1), then, with
    `voi`, through the VOI LUT or the first window (C.11.2), each frame through its own where the
    file has functional groups. MONOCHROME1 is inverted within the range that the file can
    represent, so that more is brighter in every image. Colour of any kind, a palette included,
    comes as RGB [H, W, 3], uint8, or uint16 where it is stored in 16 bits.

    Args:
        path: a file in any transfer syntax that an installed pydicom plugin decodes.
        voi: whether the VOI transform is applied; of grey images only.
        frames: which ones; without it a file of several is refused.
        burned_in: whether an image that says that it has text in it may be read.

    Raises:
        UnreadableError: no DICOM, no such image, truncated, no codec, or text in it.
        OSError: the system refuses the file.
    """
    dataset = read_tags(path, ALLOWED_TAGS)
    with unheard("pydicom"):
        try:
            _require_clean(dataset, allowed=burned_in)
            count = _frame_count(dataset)
            if count > 1 and frames is None:
                raise UnreadableError(
                    "the DICOM file has more than one frame, and the study does not say with "
                    "data.frames which to take"
                )
            reader = FrameReader(dataset, count, voi=voi)
            numbers = (0,) if frames is None else chosen(frames, count)
        except UnreadableError:
            raise
        except Exception as error:  # a damaged element may be anything once it is looked at
            raise UnreadableError(DAMAGED) from error
        return tuple(
            Reading(main=reader.read(number), part=f"#{number + 1}" if count > 1 else "")
            for number in numbers
        )


def _require_clean(dataset: "Dataset", *, allowed: bool) -> None:
    """Refuse text in the pixels; what is neither YES nor NO is taken for YES."""
    said = dataset.get("BurnedInAnnotation")
    if not allowed and said not in {None, ""} and str(said).strip().upper() != "NO":
        raise UnreadableError("the DICOM file says that text is burned into the image")


def _frame_count(dataset: "Dataset") -> int:
    count = int(dataset.get("NumberOfFrames") or 1)
    if count < 1:
        raise UnreadableError("the DICOM file has no frame")
    return count
