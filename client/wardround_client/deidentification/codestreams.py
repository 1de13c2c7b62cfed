"""Comments in compressed images: JPEG, JPEG-LS and JPEG 2000 may carry text beside the pixels.

Bytes that hold no pixels are set to zero where they stand, so that every length and offset holds
and the image decodes to the same values. A codestream that is not understood to its end is refused.
"""

import re

from wardround_client.deidentification.refusals import Reason, refused

# ITU-T T.81 B.1 and T.87 C.2: tables and headers, without which there is no image.
_JPEG_NEEDED = frozenset({*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xF7, 0xF8})
_JPEG_COMMENTS = frozenset({0xFE, *range(0xE0, 0xF0)})
# Application segments that say how colours are coded; their length is fixed.
_JPEG_COLOURS = ((0xE0, b"JFIF\0", 14), (0xEE, b"Adobe", 12), (0xE8, b"mrfx", 5))
_ENTROPY_END = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")
_ENTROPY_END_LS = re.compile(rb"\xff+[\x80-\xcf\xd8-\xfe]")
# ITU-T T.800 A.2, T.814: marker segments of main and tile-part headers.
_J2K_NEEDED = frozenset(
    {0x50, 0x51, 0x52, 0x53, 0x55, 0x57, 0x58, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61, 0x63}
)
_J2K_COMMENT, _SOT, _SOD, _EOC = 0x64, 0x90, 0x93, 0xD9


def without_comments(stream: bytes) -> bytes:
    """A codestream of JPEG, JPEG-LS, JPEG 2000 or HTJ2K whose comments are zeros.

    Raises:
        UnreadableError: it is none of them, is truncated, or has segments that nobody knows.
    """
    data = bytearray(stream)
    try:
        if data.startswith(b"\xff\xd8\xff"):
            end = _jpeg(data)
        elif data.startswith(b"\xff\x4f\xff\x51"):
            end = _jpeg_2000(data)
        else:
            raise refused(Reason.SYNTAX)
    except (IndexError, ValueError) as error:
        raise refused(Reason.DAMAGED) from error
    _blank(data, end, len(data))
    return bytes(data)


def rle_without_rest(frame: bytes, *, segments: int, length: int) -> bytes:
    """A frame in RLE (PS3.5 G) with zeros where no pixels are.

    Args:
        frame: one fragment.
        segments: that the frame has to have.
        length: of a decoded segment in bytes.

    Raises:
        UnreadableError: it is truncated or another number of segments.
    """
    header = [int.from_bytes(frame[4 * i : 4 * i + 4], "little") for i in range(16)]
    starts = header[1 : 1 + segments]
    if header[0] != segments or starts != sorted(starts) or starts[0] < 64:
        raise refused(Reason.DAMAGED)
    data = bytearray(frame)
    _blank(data, 4 + 4 * segments, 64)
    _blank(data, 64, starts[0])
    for start, stop in zip(starts, [*starts[1:], len(frame)], strict=True):
        _blank(data, _rle_end(frame, start, stop, length), stop)
    return bytes(data)


def _rle_end(frame: bytes, at: int, stop: int, length: int) -> int:
    """Where the segment's last byte is decoded."""
    decoded = 0
    while decoded < length:
        if at >= stop:
            raise refused(Reason.DAMAGED)
        control = frame[at]
        if control < 128:
            at, decoded = at + control + 2, decoded + control + 1
        elif control > 128:
            at, decoded = at + 2, decoded + 257 - control
        else:
            at += 1
    # A run that ends beyond the image carries what no reader shows.
    if at > stop or decoded > length:
        raise refused(Reason.DAMAGED)
    return at


def _jpeg(data: bytearray) -> int:
    """Blank the comments; where the image ends."""
    at, entropy_end = 2, _ENTROPY_END
    while True:
        code, at = _marker(data, at)
        if code == _EOC:
            return at
        length = _length(data, at)
        if code in _JPEG_COMMENTS:
            _blank_application(data, code, at + 2, at + length)
        elif code not in _JPEG_NEEDED:
            raise refused(Reason.SYNTAX)
        if code == 0xF7:  # start of a JPEG-LS frame, whose bits are stuffed in another way
            entropy_end = _ENTROPY_END_LS
        at += length
        if code == 0xDA:
            found = entropy_end.search(data, at)
            if found is None:
                raise refused(Reason.DAMAGED)
            at = found.start()


def _blank_application(data: bytearray, code: int, start: int, stop: int) -> None:
    for known, name, size in _JPEG_COLOURS:
        if code == known and data.startswith(name, start):
            # The last bytes of JFIF are the size of a thumbnail; none of it may be left.
            keep = size - 2 if code == 0xE0 else size
            _blank(data, min(start + keep, stop), stop)
            return
    _blank(data, start, stop)


def _jpeg_2000(data: bytearray) -> int:
    """Blank the comments of the main header and of all tile-parts; where the image ends."""
    at = 2
    while True:
        begin = at
        code, at = _marker(data, at)
        if code == _EOC:
            return at
        length = _length(data, at)
        if code == _SOT:
            part = int.from_bytes(data[at + 4 : at + 8], "big")
            # A last part of length 0 goes on to the end marker (A.4.2).
            end = begin + part if part else data.rindex(b"\xff\xd9")
            _tile_part_header(data, at + length, end)
            if end == len(data) or (end == len(data) - 1 and data[end] == 0):
                return end  # without the end marker, as some encoders write it
            at = end
            continue
        _blank_segment(data, code, at + 2, at + length)
        at += length


def _tile_part_header(data: bytearray, at: int, end: int) -> None:
    while True:
        code, at = _marker(data, at)
        if code == _SOD:
            break
        length = _length(data, at)
        _blank_segment(data, code, at + 2, at + length)
        at += length
    if not at <= end <= len(data):
        raise refused(Reason.DAMAGED)


def _blank_segment(data: bytearray, code: int, start: int, stop: int) -> None:
    if code == _J2K_COMMENT:
        _blank(data, start + 2, stop)  # the first two bytes say that it is text
    elif code not in _J2K_NEEDED:
        raise refused(Reason.SYNTAX)


def _marker(data: bytearray, at: int) -> tuple[int, int]:
    """The code of the marker at a place, and the place behind it; fill bytes are passed over."""
    if data[at] != 0xFF:
        raise refused(Reason.DAMAGED)
    while data[at] == 0xFF:
        at += 1
    return data[at], at + 1


def _length(data: bytearray, at: int) -> int:
    length = data[at] << 8 | data[at + 1]
    if length < 2 or at + length > len(data):
        raise refused(Reason.DAMAGED)
    return length


def _blank(data: bytearray, start: int, stop: int) -> None:
    if start < stop:
        data[start:stop] = bytes(stop - start)
