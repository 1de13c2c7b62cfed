"""`source = "images"`: PNG and JPEG files with a label table, or npz arrays. H, W = pixels."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.arrays import ArraySource
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


def read_image(path: Path) -> NDArray[Any]:
    """A PNG or JPEG file as stored: grey uint8 or uint16 [H, W], colour uint8 [H, W, 3].

    Radiographs are often stored as colour with three equal channels; they become grey. An alpha
    channel is dropped.

    Raises:
        UnreadableError: no such image, truncated, or larger than Pillow's limit.
        OSError: the system refuses the file.
    """
    # Pillow costs 50 ms to import, and most studies read no PNG.
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    with path.open("rb") as file, warnings.catch_warnings():
        # Pillow's warnings quote the file, and the one on huge images must be an error.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            # Other formats have decoders with a far longer record of security holes.
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                return _pixels(image)
        except UnidentifiedImageError as error:
            raise UnreadableError("the file is not a PNG or JPEG image") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise UnreadableError("the image is too large") from error
        except (OSError, SyntaxError, ValueError) as error:
            raise UnreadableError("the image is truncated or damaged") from error


def _pixels(image: Any) -> NDArray[Any]:
    if image.mode.startswith("I"):
        # 16-bit PNG; older Pillow hands it out as 32-bit integers.
        return np.asarray(image).astype(np.uint16)
    if image.mode in {"1", "L", "LA"}:
        return np.asarray(image.convert("L"))
    colour = np.asarray(image.convert("RGB"))
    grey = (colour[..., 0] == colour[..., 1]).all() and (colour[..., 1] == colour[..., 2]).all()
    return colour[..., 0] if grey else colour
