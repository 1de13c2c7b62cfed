"""The image bit by bit, and not a byte besides it."""

import numpy as np
import pydicom
import pytest
from dicom_images import COLUMNS, ROWS, image
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.uid import (
    MPEG2MPML,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
)

from wardround_client.deidentification.attributes import Attributes
from wardround_client.deidentification.pixels import pixel_element, require_known_syntax
from wardround_client.deidentification.project_key import ProjectKey
from wardround_shared.errors import UnreadableError

WORD = b"Quistgaard^Ingeborg!"


def pixels_of(ds, syntax=ExplicitVRLittleEndian):
    key = ProjectKey(project="lungs", secret=bytes(32))
    return bytes(pixel_element(ds, Attributes(key, patient="4711").rebuilt(ds), syntax).value)


def test_the_image_is_the_same_and_what_is_behind_it_goes():
    ds = image()
    plain = ds.PixelData
    ds.PixelData += WORD
    assert pixels_of(ds) == plain


def test_less_than_the_image_is_refused():
    ds = image()
    ds.PixelData = ds.PixelData[:-2]
    with pytest.raises(UnreadableError, match="truncated"):
        pixels_of(ds)


@pytest.mark.parametrize(
    ("order", "syntax"), [("<", ExplicitVRLittleEndian), (">", ExplicitVRBigEndian)]
)
@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 15), (10, 12), (1, 0)])
def test_an_overlay_in_the_bits_above_the_image_goes(order, syntax, stored, high):
    mask = ((1 << stored) - 1) << (high + 1 - stored)
    words = np.random.default_rng(1).integers(0, 2**16, ROWS * COLUMNS).astype(f"{order}u2")
    ds = image(BitsStored=stored, HighBit=high, PixelData=words.tobytes())
    assert pixels_of(ds, syntax) == (words & mask).astype(f"{order}u2").tobytes()


@given(st.lists(st.integers(-2048, 2047), min_size=12, max_size=12))
def test_bits_that_only_repeat_the_sign_are_left_alone(values):
    stored = np.array(values, dtype="<i2").tobytes()
    signed = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}
    assert pixels_of(image(PixelData=stored, **signed)) == stored
    # So are zeros above a negative number, which some scanners write.
    zeros = (np.array(values, dtype="<i2").view("<u2") & 0x0FFF).tobytes()
    assert pixels_of(image(PixelData=zeros, **signed)) == zeros


def test_a_negative_number_stays_one_when_an_overlay_goes():
    ds = image(BitsStored=12, HighBit=11, PixelRepresentation=1)
    ds.PixelData = np.full(12, 0x5FFE, dtype="<u2").tobytes()
    assert np.frombuffer(pixels_of(ds), "<i2").tolist() == [-2] * 12


@pytest.mark.parametrize("big", [False, True])
def test_an_odd_number_of_bytes_keeps_its_last_pixel(big):
    name = "SC_rgb_small_odd_big_endian.dcm" if big else "SC_rgb_small_odd.dcm"
    ds = pydicom.dcmread(get_testdata_file(name, download=False))
    expected = ds.pixel_array.copy()
    ds.PixelData = pixels_of(ds, ds.file_meta.TransferSyntaxUID)
    np.testing.assert_array_equal(ds.pixel_array, expected)


def compressed():
    ds = pydicom.dcmread(get_testdata_file("MR_small_jp2klossless.dcm", download=False))
    return ds, next(generate_fragments(ds.PixelData[8:]))


@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("has_bot", [True, False])
def test_frames_keep_their_fragments_and_lose_what_is_no_frame(fragments, has_bot):
    ds, frame = compressed()
    planted = frame.rstrip(b"\0") + WORD
    ds.NumberOfFrames = 2
    ds.PixelData = encapsulate([planted] * 3, fragments_per_frame=fragments, has_bot=has_bot)
    cleaned = pixels_of(ds, JPEG2000Lossless)
    assert b"Quist" not in cleaned
    table = int.from_bytes(cleaned[4:8], "little")
    assert table == (8 if has_bot or fragments > 1 else 0)
    assert len(list(generate_fragments(cleaned[8 + table :]))) == 2 * fragments
    ds.PixelData = cleaned
    np.testing.assert_array_equal(ds.pixel_array[0], ds.pixel_array[1])


def test_an_offset_table_is_made_anew():
    ds, frame = compressed()
    planted = encapsulate([frame], has_bot=False)
    ds.PixelData = planted[:4] + (20).to_bytes(4, "little") + WORD + planted[8:]
    cleaned = pixels_of(ds, JPEG2000Lossless)
    assert b"Quist" not in cleaned
    assert cleaned[4:12] == b"\4\0\0\0\0\0\0\0"


@pytest.mark.parametrize("data", [b"", WORD, encapsulate([b"\xff\xd8"]), encapsulate([WORD])])
def test_damaged_compressed_pixels_are_refused(data):
    ds, _ = compressed()
    ds.PixelData = data
    with pytest.raises(UnreadableError):
        pixels_of(ds, JPEG2000Lossless)


def test_fewer_frames_than_there_are_said_to_be_are_refused():
    ds, frame = compressed()
    ds.NumberOfFrames = 2
    ds.PixelData = encapsulate([frame])
    with pytest.raises(UnreadableError, match="truncated"):
        pixels_of(ds, JPEG2000Lossless)


def test_an_overlay_in_compressed_pixels_is_refused():
    ds, _ = compressed()
    ds.add_new(0x60020100, "US", 16)
    with pytest.raises(UnreadableError, match="an overlay in the pixels"):
        pixels_of(ds, JPEG2000Lossless)


@pytest.mark.parametrize(
    "change",
    [
        {"Rows": None},
        {"Rows": 0},
        {"BitsStored": 17},
        {"HighBit": 4},
        {"PhotometricInterpretation": "QUIST"},
    ],
)
def test_an_image_that_is_not_described_is_refused(change):
    with pytest.raises(UnreadableError, match="truncated or damaged"):
        pixels_of(image(**change))


def test_without_pixels_there_is_nothing_to_write():
    with pytest.raises(UnreadableError, match="no pixel data"):
        pixels_of(image(PixelData=None))


@pytest.mark.parametrize("syntax", [MPEG2MPML, UID("1.2.840.10008.1.2.4.94"), UID("1.2.3.4")])
def test_video_and_other_strange_syntaxes_are_refused(syntax):
    with pytest.raises(UnreadableError, match="transfer syntax"):
        require_known_syntax(syntax)


def test_a_picture_in_the_bit_above_negative_pixels_goes():
    """Air in a CT is negative: its sign bit, there or not, could draw letters."""
    words = np.full((ROWS, COLUMNS), -1000, dtype="<i2").view("<u2")
    drawn = words.copy()
    drawn[::2, ::3] &= 0x7FFF
    signed = {"BitsStored": 15, "HighBit": 14, "PixelRepresentation": 1}
    assert pixels_of(image(PixelData=drawn.tobytes(), **signed)) == words.tobytes()


@pytest.mark.parametrize("allocated", [24, 64])
def test_spare_bits_in_words_of_another_size_are_refused(allocated):
    words = bytes(ROWS * COLUMNS * allocated // 8)
    unusual = {"BitsAllocated": allocated, "BitsStored": 8, "HighBit": 7}
    with pytest.raises(UnreadableError):
        pixels_of(image(PixelData=words, **unusual))
