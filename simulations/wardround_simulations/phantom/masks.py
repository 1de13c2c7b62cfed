"""Masks of lesions as PNG files."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_mask(path: Path, mask: NDArray[np.bool_]) -> None:
    """Write a PNG of zeros and ones, stored as they are: packing may differ between machines."""
    from PIL import Image  # noqa: PLC0415 - slow import

    Image.fromarray(mask.astype(np.uint8)).save(path, compress_level=0)
