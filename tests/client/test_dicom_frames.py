"""Frames, colours and codecs of DICOM images: what comes out is what the standard says."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import FRAMES, RAMP, group, image_of, rescaled, write
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence

from wardround_client.sources.dicom import ALLOWED_TAGS, read_dicom
from wardround_client.sources.dicom_header import read_tags
from wardround_shared.errors import UnreadableError

# --- frames ----------------------------------------------------------------------------------


def numbers_of(readings) -> list[int]:
    """Which of `FRAMES` the readings are, by what is in them."""
    return [int(reading.main[0, 0]) // 20 for reading in readings]


@pytest.mark.parametrize(
    ("frames", "taken"),
    [
        ("middle", [2]),
        ("all", [0, 1, 2, 3]),
        ((1, 4), [0, 3]),
        ((4, 1), [3, 0]),
        ((0.3, 0.5, 0.6), [1, 2]),
        ((1, 0.99), [0, 3]),
    ],
)
def test_the_frames_that_the_study_names_are_taken(tmp_path, frames, taken):
    readings = read_dicom(write(tmp_path / "a.dcm", FRAMES, bits=8), frames=frames)
    assert numbers_of(readings) == taken
    assert [reading.part for reading in readings] == [f"#{number + 1}" for number in taken]


def test_a_frame_behind_the_last_is_missed(tmp_path):
    path = write(tmp_path / "a.dcm", FRAMES, bits=8)
    with pytest.raises(UnreadableError, match="fewer frames"):
        read_dicom(path, frames=(1, 5))


def test_an_image_of_one_frame_is_its_own_middle(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP, bits=8)
    np.testing.assert_array_equal(image_of(path, frames="middle"), RAMP)


def test_each_frame_of_an_enhanced_image_has_its_own_rescale(tmp_path):
    own = [group(PixelValueTransformationSequence=rescaled(1 + i, i)) for i in range(4)]
    path = write(
        tmp_path / "a.dcm", FRAMES, bits=12, PerFrameFunctionalGroupsSequence=Sequence(own)
    )
    for number, reading in enumerate(read_dicom(path, frames="all")):
        np.testing.assert_array_equal(reading.main, FRAMES[number] * (1.0 + number) + number)


def test_frames_may_share_a_rescale_and_have_windows_of_their_own(tmp_path):
    own = [group(FrameVOILUTSequence={"WindowCenter": 50 * i, "WindowWidth": 4}) for i in range(4)]
    path = write(
        tmp_path / "a.dcm",
        FRAMES,
        bits=8,
        SharedFunctionalGroupsSequence=Sequence(
            [group(PixelValueTransformationSequence=rescaled(2, -10))]
        ),
        PerFrameFunctionalGroupsSequence=Sequence(own),
    )
    (plain,) = read_dicom(path, frames=(2,))
    np.testing.assert_array_equal(plain.main, FRAMES[1] * 2.0 - 10)
    (windowed,) = read_dicom(path, frames=(2,), voi=True)
    expected = np.clip(((FRAMES[1] * 2.0 - 10 - 49.5) / 3 + 0.5) * 510 - 10, -10, 500)
    np.testing.assert_allclose(windowed.main, expected, rtol=1e-5)


def test_groups_of_fewer_frames_than_there_are_are_refused(tmp_path):
    own = [group(PixelValueTransformationSequence=rescaled(1, 0)) for _ in range(3)]
    path = write(tmp_path / "a.dcm", FRAMES, bits=8, PerFrameFunctionalGroupsSequence=Sequence(own))
    with pytest.raises(UnreadableError, match="does not describe as many frames"):
        read_dicom(path, frames="all")


def test_a_file_with_a_frame_cut_off_is_refused_whichever_frame_is_asked_for(tmp_path):
    path = write(tmp_path / "a.dcm", FRAMES, bits=8)
    path.write_bytes(path.read_bytes()[:-13])
    with pytest.raises(UnreadableError, match="truncated or damaged"):
        read_dicom(path, frames=(1,))


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "SC_rgb_rle_2frame.dcm"])
def test_compressed_frames_are_decoded_one_by_one(name):
    pytest.importorskip("openjpeg", reason="the extra 'codecs' is not installed")
    path = Path(get_testdata_file(name))
    readings = read_dicom(path, frames="all")
    dataset = pydicom.dcmread(path)
    assert len(readings) == dataset.NumberOfFrames
    (last,) = read_dicom(path, frames=(dataset.NumberOfFrames,))
    np.testing.assert_array_equal(last.main, readings[-1].main)
    assert last.main.shape == (dataset.Rows, dataset.Columns, 3)


# --- colour ----------------------------------------------------------------------------------

# What pydicom's own colour bars show at these rows, in the middle column.
BARS = {
    5: (255, 0, 0),
    25: (0, 255, 0),
    45: (0, 0, 255),
    65: (0, 0, 0),
    75: (64, 64, 64),
    85: (192, 192, 192),
    95: (255, 255, 255),
}


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_dcmtk_+eb+cy+n1.dcm",
        "SC_rgb_dcmtk_+eb+cy+s2.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_jls_lossy_line.dcm",
        "SC_rgb_rle.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
    ],
)
def test_colour_of_any_kind_becomes_rgb(name):
    pytest.importorskip("openjpeg", reason="the extra 'codecs' is not installed")
    image = image_of(Path(get_testdata_file(name)))
    assert (image.shape, image.dtype) == ((100, 100, 3), np.uint8)
    for row, colour in BARS.items():
        np.testing.assert_allclose(image[row, 50].astype(int), colour, atol=6)


def palette(path: Path, bits: int) -> Path:
    red, green, blue = ([(7 * i + k) % 256 for i in range(12)] for k in (0, 50, 100))
    path = write(path, RAMP, bits=8, PhotometricInterpretation="PALETTE COLOR")
    dataset = pydicom.dcmread(path)
    for name, entries in (("Red", red), ("Green", green), ("Blue", blue)):
        shifted = np.array(entries, dtype=np.uint16) << (8 if bits == 16 else 0)
        stored = shifted.astype("<u2" if bits == 16 else "u1").tobytes()
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [12, 0, bits])
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", stored)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_becomes_the_colours_that_it_names(tmp_path, bits):
    image = image_of(palette(tmp_path / "a.dcm", bits))
    assert (image.shape, image.dtype) == ((3, 4, 3), np.uint8)
    np.testing.assert_array_equal(image, np.stack([(7 * RAMP + k) % 256 for k in (0, 50, 100)], -1))


def test_overlays_are_no_pixels(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP, bits=12)
    dataset = pydicom.dcmread(path)
    for element, vr, value in (
        (0x0010, "US", 3),
        (0x0011, "US", 4),
        (0x0040, "CS", "G"),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x3000, "OW", b"\xff\x0f"),
    ):
        dataset.add_new((0x6000, element), vr, value)
    dataset.save_as(path)
    np.testing.assert_array_equal(image_of(path), RAMP)
    assert not [e for e in read_tags(path, ALLOWED_TAGS) if e.tag.group == 0x6000]


# --- codecs ----------------------------------------------------------------------------------


def test_a_missing_codec_is_one_sentence_with_the_name_of_the_syntax(monkeypatch):
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "is_available", property(lambda _: False))
    with pytest.raises(UnreadableError) as caught:
        image_of(Path(get_testdata_file("MR_small_jpeg_ls_lossless.dcm")))
    assert str(caught.value) == (
        "there is no codec here for JPEG-LS Lossless Image Compression; install wardround[codecs]"
    )


def test_a_transfer_syntax_that_nobody_knows_is_not_quoted(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP, bits=8)
    syntax = b"1.2.3.4.5.6.7.8.9.10"
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", syntax))
    with pytest.raises(UnreadableError, match=r"syntax is none for images$"):
        image_of(path)
