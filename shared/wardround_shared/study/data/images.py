"""Images, in files or arrays."""

from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from wardround_shared.study.data.cohort import CohortData, IndexedData
from wardround_shared.study.data.columns import Label, SiteKey, StaticFeature


def _places(value: object) -> object:
    if value in ("middle", "all"):
        return value
    listed = list(value) if isinstance(value, list | tuple) else []
    if not listed or not all(_is_place(one) for one in listed):
        raise ValueError(
            'write "middle", "all", or a list of numbers from 1 on and of shares below 1, such as '
            "[0.25, 0.5, 0.75]"
        )
    return tuple(listed)


def _is_place(one: object) -> bool:
    if isinstance(one, bool) or not isinstance(one, int | float):
        return False
    return 0 < one < 1 or (one >= 1 and isinstance(one, int))


def _written(places: str | tuple[int | float, ...]) -> str | list[int | float]:
    # pydantic would say the same, with a warning that a list is no tuple.
    return places if isinstance(places, str) else list(places)


Places = Annotated[
    Literal["middle", "all"] | tuple[int | float, ...],
    PlainValidator(_places),
    PlainSerializer(_written, when_used="json"),
]
"""Which of several: "middle", "all", or numbers from 1 on and shares of the way below 1."""


class ImagesData(IndexedData):
    """`source = "images"`: PNG or JPEG files named in `file`, or npz `arrays`.

    With `arrays` (glob patterns of npz files) the images are every array whose name matches the
    pattern `images` (shape [n, height, width] or [n, height, width, 3]); the label column is the
    pattern of the array that goes with it (`*labels` for `*images`).

    Attributes:
        static: columns that accompany the image as a vector (age, sex).
    """

    source: Literal["images"]
    file: str | None = None
    folder: str = "."
    arrays: tuple[str, ...] = ()
    images: str = "*images"
    static: tuple[StaticFeature, ...] = ()

    @model_validator(mode="after")
    def _files_or_arrays(self) -> "ImagesData":
        if bool(self.arrays) == (self.file is not None):
            raise ValueError("give either file (with table) or arrays")
        return self


class DicomData(IndexedData):
    """`source = "dicom"`: a folder tree of DICOM files, named by `file` in the label table.

    Attributes:
        voi: apply the file's VOI LUT or window (PS3.3 C.11.2) after the modality transform.
        frames: which frames of a file with several are taken, each an example; without it such a
            file is set aside.
        static: as for `images`; from the label table, never from the header.
    """

    source: Literal["dicom"]
    file: str
    folder: str = "."
    voi: bool = False
    frames: Places | None = None
    static: tuple[StaticFeature, ...] = ()

    @property
    def several_of(self) -> str | None:
        """Frames, unless it is one."""
        return "frames" if _several(self.frames) else None


class NiftiData(IndexedData):
    """`source = "nifti"`: volumes in .nii or .nii.gz files, named by `file` in the label table.

    Attributes:
        axis: planes that the slices lie in, in the patient's own orientation.
        slices: which ones, counted from the patient's left, back or feet; each is an example.
        static: as for `images`.
    """

    source: Literal["nifti"]
    file: str
    folder: str = "."
    axis: Literal["sagittal", "coronal", "axial"] = "axial"
    slices: Places
    static: tuple[StaticFeature, ...] = ()

    @property
    def several_of(self) -> str | None:
        """Slices, unless it is one."""
        return "slices" if _several(self.slices) else None


def _several(places: Places | None) -> bool:
    return places == "all" or (isinstance(places, tuple) and len(places) > 1)


class PhantomData(CohortData):
    """`source = "phantom"`: seeded chest phantoms, written as real DICOM files on the spot.

    Attributes:
        sites: number of hospitals, each with a scanner of its own.
        patients_per_site: patients of each hospital; one image a patient.
        size: image height and width in pixels.
    """

    source: Literal["phantom"]
    label: Label | None = Label(column="finding")
    sites: int = Field(default=4, ge=1, le=64)
    patients_per_site: int = Field(default=240, ge=4)
    size: int = Field(default=64, ge=32, le=512)

    @property
    def site(self) -> SiteKey:
        """The table that is written with the files names the hospital."""
        return SiteKey(column="site")
