"""`source = "images"`: PNG and JPEG files with a label table, or npz arrays. H, W = pixels."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from wardround_client.sources.arrays import ArraySource
from wardround_client.sources.image_file import read_image
from wardround_client.sources.labelled import LabelledFiles
from wardround_client.sources.records import Reading
from wardround_shared.errors import UnreadableError
from wardround_shared.study import ImagesData, Study

_ENDINGS = (".png", ".jpg", ".jpeg")


def image_source(study: Study, data: ImagesData, folder: Path) -> ArraySource | LabelledFiles:
    """Images from files or from arrays, as the study says."""
    if data.arrays:
        return ArraySource(study, data, folder, pattern=data.images, example=_image)
    return LabelledFiles(study, data, folder, read=_only, endings=_ENDINGS)


def _only(path: Path) -> tuple[Reading]:
    return (Reading(main=read_image(path)),)


def _image(row: NDArray[Any]) -> NDArray[Any]:
    if row.ndim == 2 or (row.ndim == 3 and row.shape[2] == 3):
        return row
    raise UnreadableError("the array is no [n, height, width] or [n, height, width, 3]")
