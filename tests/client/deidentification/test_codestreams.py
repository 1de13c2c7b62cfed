"""Comments of codecs become zeros, lengths and images stay; what is not understood is refused."""

import struct
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, get_frame

from wardround_client.deidentification.codestreams import rle_without_rest, without_comments
from wardround_shared.errors import UnreadableError

WORD = b"Quistgaard^Ingeborg"


def first_frame(name):
    ds = pydicom.dcmread(get_testdata_file(name, download=False))
    return ds, get_frame(ds.PixelData, 0, number_of_frames=1)


def segment(code, payload):
    return struct.pack(">BBH", 0xFF, code, len(payload) + 2) + payload


def decoded(ds, frame):
    ds.PixelData = encapsulate([frame])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ds.pixel_array


JPEGS = ("JPGExtended.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_jpeg_ls_lossless.dcm")


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("code", [0xFE, 0xE0, 0xE1, 0xEF])
def test_words_in_a_jpeg_go_and_the_image_stays(name, code):
    ds, frame = first_frame(name)
    planted = frame[:2] + segment(code, WORD) + frame[2:].rstrip(b"\0") + WORD
    cleaned = without_comments(planted)
    assert WORD in planted
    assert not any(part in cleaned for part in WORD.split(b"^"))
    assert len(cleaned) == len(planted)
    original = decoded(ds, frame).copy()
    if "jpeg_ls" not in name or code == 0xFE:  # pylibjpeg reads no application segments there
        np.testing.assert_array_equal(decoded(ds, cleaned), original)


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "MR_small_jp2klossless.dcm", "693_J2KI.dcm"])
def test_words_in_a_jpeg_2000_go_and_the_image_stays(name):
    ds, frame = first_frame(name)
    size = 4 + int.from_bytes(frame[4:6], "big")  # start of codestream, and the size segment
    planted = frame[:size] + segment(0x64, b"\0\1" + WORD) + frame[size:] + WORD
    cleaned = without_comments(planted)
    assert not any(part in cleaned for part in WORD.split(b"^"))
    np.testing.assert_array_equal(decoded(ds, cleaned), decoded(ds, frame))


def test_words_in_the_header_of_a_tile_part_go():
    _, frame = first_frame("MR_small_jp2klossless.dcm")
    at = frame.index(b"\xff\x90")
    part = int.from_bytes(frame[at + 6 : at + 10], "big")
    comment = segment(0x64, b"\0\1" + WORD)
    header = (
        frame[at : at + 6] + (part + len(comment)).to_bytes(4, "big") + frame[at + 10 : at + 12]
    )
    planted = frame[:at] + header + comment + frame[at + 12 :]
    cleaned = without_comments(planted)
    assert WORD in planted
    assert WORD not in cleaned
    assert len(cleaned) == len(planted)


def test_how_colours_are_coded_stays():
    adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0\1")
    jfif = segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\2\2" + b"Quistgaard^^")
    end = b"\xff\xda\0\x02\x00\xff\xd9"
    cleaned = without_comments(b"\xff\xd8" + adobe + jfif + end)
    assert adobe in cleaned
    assert b"JFIF\0\1\2\0\0\1\0\1" + bytes(14) in cleaned


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        WORD,
        b"\xff\xd8\xff",
        b"\xff\xd8" + segment(0xFE, WORD),
        b"\xff\xd8" + segment(0xFE, WORD)[:-4],
        b"\xff\xd8" + segment(0xF0, WORD) + b"\xff\xd9",  # a segment of an extension
        b"\xff\xd8" + segment(0xDA, b"") + b"\1\2\3",  # the image never ends
        b"\xff\xd8\xff\xfe\0\0" + WORD,  # a length that is none
        b"\xff\x4f\xff\x51",
        b"\xff\x4f" + segment(0x51, WORD) + segment(0x6F, WORD) + b"\xff\xd9",
        b"\xff\x4f" + segment(0x51, WORD) + b"Quist",
        b"\0\0\0\x0cjP  \r\n\x87\n" + WORD,  # a JP2 file, which is not for DICOM
    ],
)
def test_what_is_not_understood_to_its_end_is_refused(stream):
    with pytest.raises(UnreadableError):
        without_comments(stream)


def rle(*segments):
    offsets, at = [], 64
    for one in segments:
        offsets.append(at)
        at += len(one)
    header = struct.pack("<16L", len(segments), *offsets, *[0] * (15 - len(segments)))
    return header + b"".join(segments)


def test_words_behind_the_segments_of_an_rle_frame_go():
    literal, run, nothing = bytes([3, 1, 2, 3, 4]), bytes([253, 7]), bytes([128])
    planted = bytearray(rle(literal + WORD, nothing + run + WORD))
    planted[20:39] = WORD  # among the offsets that nobody uses
    cleaned = rle_without_rest(bytes(planted), segments=2, length=4)
    assert cleaned == rle(literal + bytes(len(WORD)), nothing + run + bytes(len(WORD)))


def test_words_between_the_header_and_the_segments_of_an_rle_frame_go():
    planted = struct.pack("<16L", 1, 84, *[0] * 14) + WORD + b"\0" + bytes([3, 1, 2, 3, 4])
    cleaned = rle_without_rest(planted, segments=1, length=4)
    assert cleaned == planted.replace(WORD, bytes(len(WORD)))


@pytest.mark.parametrize(
    ("frame", "segments"),
    [
        (rle(bytes([3, 1, 2, 3, 4])), 2),
        (rle(bytes([3, 1, 2])), 1),
        (rle(bytes([2, 1, 2, 3])), 1),
        (rle(bytes([2, 1, 2, 3]))[:50], 1),
        (rle(bytes([3 + len(WORD), 1, 2, 3, 4]) + WORD), 1),  # one run beyond the image
        (WORD * 4, 1),
        (b"", 1),
    ],
)
def test_an_rle_frame_that_is_cut_off_is_refused(frame, segments):
    with pytest.raises(UnreadableError):
        rle_without_rest(frame, segments=segments, length=4)
