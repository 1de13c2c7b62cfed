"""Reading of DICOM files that looks at nothing but the named tags, at any depth.

A DICOM header names the patient, the physician and the institution dozens of times; what is never
read cannot leak into a message, a log or a cache.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from wardround_client.sources.quiet import unheard
from wardround_shared.errors import UnreadableError

if TYPE_CHECKING:
    from pydicom import Dataset

DAMAGED = "the DICOM file is truncated or damaged"


def read_tags(path: Path, keywords: Collection[str]) -> "Dataset":
    """The named elements of a DICOM file, pixel data included but not decoded.

    pydicom reads the file meta group, Specific Character Set and the top-level elements that are
    named. Items of sequences come with all they hold, as bytes: what is not named is taken out of
    them before anything turns it into a value.

    Args:
        path: of the file.
        keywords: of elements, at the top and in sequences.

    Raises:
        UnreadableError: not a DICOM file (PS3.10), or damaged.
        OSError: the system refuses the file.
    """
    import pydicom  # noqa: PLC0415 - slow to import
    from pydicom.datadict import tag_for_keyword  # noqa: PLC0415
    from pydicom.errors import InvalidDicomError  # noqa: PLC0415

    tags = frozenset(tag for name in keywords if (tag := tag_for_keyword(name)) is not None)
    with unheard("pydicom"):
        try:
            dataset = pydicom.dcmread(path, specific_tags=[*tags])
            _prune(dataset, tags)
        except InvalidDicomError as error:
            raise UnreadableError("the file is not a DICOM file") from error
        except OSError as error:
            if error.errno is None:  # raised by pydicom, over a sequence that ends too soon
                raise UnreadableError(DAMAGED) from error
            raise
        except Exception as error:  # a parser may raise anything on a damaged file
            raise UnreadableError(DAMAGED) from error
    return dataset


def _prune(dataset: "Dataset", tags: frozenset[int]) -> None:
    for tag in [*dataset.keys()]:
        if tag not in tags:
            del dataset[tag]
        # The raw element knows its kind; only a sequence is looked into.
        elif dataset.get_item(tag).VR in {"SQ", None} and dataset[tag].VR == "SQ":
            for item in dataset[tag].value:
                _prune(item, tags)
