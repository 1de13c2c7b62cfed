"""`source = "nifti"`: slices of NIfTI volumes. H, W = pixels; X, Y, Z = voxels of the volume."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.labelled import LabelledFiles
from wardround_client.sources.places import chosen
from wardround_client.sources.quiet import unheard
from wardround_client.sources.records import Reading
from wardround_shared.errors import UnreadableError, UnsupportedError
from wardround_shared.study import NiftiData, Places, Study

_ENDINGS = (".nii", ".nii.gz")
_DAMAGED = "the NIfTI file is truncated or damaged"
# Axes of a volume in canonical orientation: to the patient's right, front and head.
_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
# A header of a few bytes may ask for more memory than there is.
_MOST_VOXELS = 2**30


def nifti_source(study: Study, data: NiftiData, folder: Path) -> LabelledFiles:
    """NIfTI files of one volume each.

    Raises:
        UnsupportedError: the library for them is not installed.
    """
    require_nibabel()
    read = partial(read_nifti, axis=data.axis, slices=data.slices)
    return LabelledFiles(study, data, folder, read=read, endings=_ENDINGS)


def require_nibabel() -> None:
    """Refuse to go on without the library.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        import nibabel  # noqa: F401, PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise UnsupportedError(
            'data.source: "nifti" needs the package nibabel; install wardround[nifti].'
        ) from error


def read_nifti(path: Path, *, axis: str, slices: Places) -> tuple[Reading, ...]:
    """Slices of a volume, float32 [H, W] each, in the unit that the file scales to.

    Slices are counted, along the axis nearest to the patient's own, from left, back or feet. They
    are seen as radiologists see them and DICOM stores them: axial ones from the feet with the
    front above, coronal ones from the front and sagittal ones with the front to the left, both
    with the head above; the patient's right is to the left. Voxels are taken as they are; in an
    oblique volume the slices are oblique, and pixels need not be square.

    Args:
        path: a .nii or .nii.gz file, NIfTI-1 or NIfTI-2.
        axis: "sagittal", "coronal" or "axial".
        slices: which ones.

    Raises:
        UnreadableError: no NIfTI, no grey volume, no orientation, or truncated.
        OSError: the system refuses the file.
    """
    if not path.name.lower().endswith(_ENDINGS):
        raise UnreadableError("the file is not a .nii or .nii.gz file")
    with path.open("rb"), unheard("nibabel.global"):
        try:
            volume, slope, intercept = _volume(path)
            place = _AXES[axis]
            numbers = chosen(slices, volume.shape[place])
            return tuple(
                Reading(
                    main=_seen(volume.take(number, axis=place), slope, intercept),
                    part=f"#{number + 1}",
                )
                for number in numbers
            )
        except UnreadableError:
            raise
        except Exception as error:  # the system opened the file; what comes now is its content
            raise UnreadableError(_DAMAGED) from error


def _volume(path: Path) -> tuple[NDArray[Any], float, float]:
    """Stored values [X, Y, Z] to the right, front and head, and what scales them."""
    import nibabel  # noqa: PLC0415 - slow to import
    from nibabel.filebasedimages import ImageFileError  # noqa: PLC0415

    try:
        image = nibabel.load(path)
    except ImageFileError as error:
        raise UnreadableError("the file is not a NIfTI file") from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise UnreadableError("the file is not a NIfTI file")
    shape, header = image.shape, image.header
    if len(shape) < 3 or any(length != 1 for length in shape[3:]) or min(shape) < 1:
        raise UnreadableError("the NIfTI file does not hold one volume of three axes")
    if header.get_data_dtype().kind not in "iuf":
        raise UnreadableError("the NIfTI volume is not grey")
    if np.prod(shape, dtype=np.float64) > _MOST_VOXELS:
        raise UnreadableError("the NIfTI volume is too large")
    if not (header["qform_code"] > 0 or header["sform_code"] > 0):
        raise UnreadableError("the NIfTI file does not say how the volume lies in the patient")
    turns = nibabel.io_orientation(image.affine)
    if not np.isfinite(turns).all():
        raise UnreadableError("the NIfTI file does not say how the volume lies in the patient")
    proxy: Any = image.dataobj
    stored = np.asarray(proxy.get_unscaled()).reshape(shape[:3])
    # Of each stored axis: the patient's axis that it is nearest to, and -1 where it is against it.
    flipped = np.flip(stored, tuple(np.flatnonzero(turns[:, 1] < 0).tolist()))
    return flipped.transpose(np.argsort(turns[:, 0])), float(proxy.slope), float(proxy.inter)


def _seen(plane: NDArray[Any], slope: float, intercept: float) -> NDArray[np.float32]:
    """A slice [H, W] as it is looked at; the plane has the other two axes in their order.

    From above to below is from the head or the front, and from left to right from the patient's
    right or the front: both against the axes of the volume.
    """
    values: NDArray[np.float32] = (plane.T[::-1, ::-1] * slope + intercept).astype(np.float32)
    return values
