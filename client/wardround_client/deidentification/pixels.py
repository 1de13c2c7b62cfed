"""Pixel data: the image bit by bit, and not a byte besides it. H, W = pixels, F = frames.

What may lie beside the image: bytes behind the last frame, bits above the stored ones (where
overlays once were kept, PS3.5 8.1.2), comments of a codec, offsets that point nowhere.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.deidentification.attributes import PIXELS
from wardround_client.deidentification.codestreams import rle_without_rest, without_comments
from wardround_client.deidentification.refusals import Reason, refused

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset
    from pydicom.uid import UID

_NEEDED = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "SamplesPerPixel",
    "PixelRepresentation",
)
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")


def require_known_syntax(syntax: "UID") -> None:
    """Refuse a transfer syntax whose pixel data nobody can look into here: video, JPIP, private.

    Raises:
        UnreadableError: by the transfer syntax.
    """
    from pydicom import uid  # noqa: PLC0415 - slow to import

    known = {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        *uid.JPEGTransferSyntaxes,
        *uid.JPEGLSTransferSyntaxes,
        uid.JPEG2000Lossless,
        uid.JPEG2000,
        uid.HTJ2KLossless,
        uid.HTJ2KLosslessRPCL,
        uid.HTJ2K,
    }
    if syntax not in known:
        raise refused(Reason.SYNTAX)


def pixel_element(source: "Dataset", new: "Dataset", syntax: "UID") -> "DataElement":
    """The pixel data for a new file.

    Args:
        source: as it was read.
        new: already with the attributes of the Image Pixel module.
        syntax: transfer syntax of both.

    Raises:
        UnreadableError: there is no image, or it cannot be made sure that there is nothing else.
    """
    from pydicom import DataElement  # noqa: PLC0415 - slow to import

    if PIXELS not in source:
        raise refused(Reason.NO_PIXELS)
    try:
        _require_described(new)
        element = source[PIXELS]
        data = bytes(element.value)
        compressed = syntax.is_compressed and not syntax.is_deflated
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise refused(Reason.DAMAGED) from error
    if compressed:
        if _overlay_in_pixels(source):
            raise refused(Reason.OVERLAY)
        made = DataElement(element.tag, "OB", _encapsulated(data, new, syntax))
        made.is_undefined_length = True
        return made
    vr = element.VR if element.VR in {"OB", "OW"} else "OW"
    little = syntax.is_little_endian
    # In words of 16 bit with the greater byte first, two pixels of 8 bit have changed places.
    swapped = not little and vr == "OW" and new.BitsAllocated == 8
    return DataElement(element.tag, vr, _native(data, new, little=little, swapped=swapped))


def _require_described(new: "Dataset") -> None:
    for keyword in _NEEDED:
        if not isinstance(new.get(keyword), int):
            raise TypeError(keyword)
    if not new.get("PhotometricInterpretation") or new.Rows < 1 or new.Columns < 1:
        raise ValueError(new.Rows)
    if not 1 <= new.BitsStored <= new.HighBit + 1 <= new.BitsAllocated:
        raise ValueError(new.BitsStored)


def _overlay_in_pixels(source: "Dataset") -> bool:
    """Whether an overlay says that it has more bits than its own one, Overlay Bits Allocated."""
    return any(
        (group, 0x0100) in source and source[group, 0x0100].value not in {1, None}
        for group in range(0x6000, 0x601F, 2)
    )


def _native(data: bytes, new: "Dataset", *, little: bool, swapped: bool) -> bytes:
    """Cut to the length of the image; bits outside the stored ones only as the sign has them."""
    from pydicom.pixels.utils import get_expected_length  # noqa: PLC0415 - slow to import

    length = get_expected_length(new, unit="bytes")
    odd = length % 2
    if len(data) < length + (odd if swapped else 0):
        raise refused(Reason.DAMAGED)
    if swapped and odd:
        data = data[: length - 1] + b"\0" + data[length : length + 1]
        return _stored_bits(data, new, little=little)
    return _stored_bits(data[:length], new, little=little) + b"\0" * odd


def _stored_bits(data: bytes, new: "Dataset", *, little: bool) -> bytes:
    allocated, stored = new.BitsAllocated, new.BitsStored
    if allocated == stored:
        return data
    if allocated not in {8, 16, 32}:
        raise refused(Reason.DAMAGED)  # spare bits in words of a size that no image has
    words = np.frombuffer(data, dtype=f"{'<' if little else '>'}u{allocated // 8}")
    low = new.HighBit + 1 - stored
    mask = words.dtype.type(((1 << stored) - 1) << low)
    image = words & mask
    if new.PixelRepresentation == 1:
        image |= _sign_bits(words, new)
    return image.astype(words.dtype).tobytes() if _has_more(words, image, mask) else data


def _sign_bits(words: NDArray[Any], new: "Dataset") -> NDArray[Any]:
    """All bits above the stored ones, where the number is negative."""
    above = words.dtype.type(((1 << new.BitsAllocated) - 1) & ~((1 << (new.HighBit + 1)) - 1))
    negative: NDArray[Any] = words >> words.dtype.type(new.HighBit) & words.dtype.type(1)
    signs: NDArray[Any] = negative * above
    return signs


def _has_more(words: NDArray[Any], image: NDArray[Any], mask: Any) -> bool:
    """Whether bits are set outside the stored ones that the sign does not explain.

    All words have their sign there, or none has: a pattern of both could be a picture.
    """
    return not (np.array_equal(words, image) or np.array_equal(words, words & mask))


def _encapsulated(data: bytes, new: "Dataset", syntax: "UID") -> bytes:
    """Every fragment of every frame without comments, between the same borders (PS3.5 A.4)."""
    from pydicom.encaps import generate_fragments, parse_basic_offsets  # noqa: PLC0415 - as above
    from pydicom.filebase import DicomBytesIO  # noqa: PLC0415

    try:
        buffer = DicomBytesIO(data)
        buffer.is_little_endian = True
        offsets = parse_basic_offsets(buffer)
        fragments = list(generate_fragments(buffer))
    except Exception as error:  # a parser may raise anything on a damaged file
        raise refused(Reason.DAMAGED) from error
    frames = _frames(fragments, single=str(syntax) == _RLE)
    count = int(new.get("NumberOfFrames") or 1)
    if len(frames) < count:
        raise refused(Reason.DAMAGED)
    cleaned = [_frame(frame, new, syntax) for frame in frames[:count]]
    # Without offsets a reader looks for the end of a frame, which zeros now follow.
    needed = any(len(frame) > 1 for frame in cleaned)
    return _items(cleaned, with_offsets=bool(offsets) or needed)


_RLE = "1.2.840.10008.1.2.5"


def _frames(fragments: list[bytes], *, single: bool) -> list[list[bytes]]:
    """The fragments of each frame: a frame begins where a codestream begins."""
    frames: list[list[bytes]] = []
    for fragment in fragments:
        if single or not frames or fragment.startswith(_STARTS):
            frames.append([])
        frames[-1].append(fragment)
    return frames


def _frame(fragments: list[bytes], new: "Dataset", syntax: "UID") -> list[bytes]:
    whole = b"".join(fragments)
    if str(syntax) == _RLE:
        segments = new.SamplesPerPixel * new.BitsAllocated // 8
        cleaned = rle_without_rest(whole, segments=segments, length=new.Rows * new.Columns)
    else:
        cleaned = without_comments(whole)
    parts, at = [], 0
    for fragment in fragments:
        parts.append(cleaned[at : at + len(fragment)])
        at += len(fragment)
    return parts


def _items(frames: list[list[bytes]], *, with_offsets: bool) -> bytes:
    """Basic offset table, made anew, and the fragments as items."""
    offsets, items = [], bytearray()
    for frame in frames:
        offsets.append(len(items))
        for part in frame:
            items += _item(part)
    table = b"".join(offset.to_bytes(4, "little") for offset in offsets) if with_offsets else b""
    return _item(table) + bytes(items)


def _item(content: bytes) -> bytes:
    padded = content + b"\0" * (len(content) % 2)
    return b"\xfe\xff\x00\xe0" + len(padded).to_bytes(4, "little") + padded
