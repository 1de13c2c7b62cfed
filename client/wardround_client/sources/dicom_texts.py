"""Texts of a DICOM header in UTF-8, whichever character set they were written in.

What is written about an image has the patient's name and names of the study's classes, and only
UTF-8 has the characters of both.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from wardround_shared.errors import UnreadableError

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

UTF8 = "ISO_IR 192"
"""UTF-8 as a DICOM header names it (PS3.3 C.12.1.1.2)."""

# pydicom reads ISO 2022 IR 58 with a codec that leaves its escape sequence in the text.
_LEFT = "\x1b$)A"
# Stand in a text for bytes that are no characters of the set.
_UNREAD = frozenset("\ufffd\x1b")


def to_utf8(header: "Dataset", inherited: Sequence[str] = ()) -> None:
    """Decode all texts, in sequences too, and name UTF-8 as what they are to be written in.

    Texts of a header that names no character set are read as Latin-1, which ASCII is a part of.

    Args:
        header: is changed.
        inherited: of an item of a sequence, the character sets of what it is in.

    Raises:
        UnreadableError: the header names a character set that is none.
    """
    named = header.get("SpecificCharacterSet")
    sets = [named] if isinstance(named, str) else [*(named or inherited)]
    if not all(_known(one) for one in sets):
        raise UnreadableError(
            "the texts of the header cannot be read: its SpecificCharacterSet is unknown"
        )
    for tag in [*header.keys()]:
        with suppress(Exception):  # a parser may raise anything on a damaged value
            _decode(header[tag], sets)
            continue
        # One that is no text stays, for whoever needs it to refuse; a sequence has texts.
        if header.get_item(tag).VR == "SQ":
            del header[tag]
    header.SpecificCharacterSet = UTF8


def require_characters(header: "Dataset", name: str) -> None:
    """Refuse a text of which some bytes are no characters of the header's set.

    Raises:
        UnreadableError: naming the attribute.
    """
    if _UNREAD & {*str(header.get(name, ""))}:
        raise UnreadableError(
            f"the {name} of the DICOM file is not in the character set that its header names"
        )


def _decode(element: "DataElement", sets: Sequence[str]) -> None:
    from pydicom.charset import decode_element  # noqa: PLC0415 - slow to import

    if element.VR == "SQ":
        for item in element.value:
            to_utf8(item, sets)
        return
    decode_element(element, [*sets])
    values = element.value if element.VM > 1 else [element.value]
    if any(_LEFT in str(value) for value in values):
        bare = [str(value).replace(_LEFT, "") for value in values]
        element.value = bare if element.VM > 1 else bare[0]


def _known(name: str) -> bool:
    """Whether pydicom reads it, some misspellings included; it reads another as Latin-1."""
    from pydicom.charset import (  # noqa: PLC0415 - slow to import
        convert_encodings,
        default_encoding,
        python_encoding,
    )

    if name in python_encoding:
        return True
    (meant,) = convert_encodings([name])
    return meant != default_encoding and meant in python_encoding.values()
