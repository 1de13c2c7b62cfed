"""What a DICOM header holds besides the image never comes out of it, damaged or not."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from damage import damaged
from dicom_files import RAMP, group, image_of, rescaled, write
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence

from wardround_client.sources.dicom import ALLOWED_TAGS, read_dicom
from wardround_client.sources.dicom_header import read_tags
from wardround_shared.errors import UnreadableError


@pytest.mark.parametrize("said", ["YES", "yes", "MAYBE"])
def test_text_burned_into_the_image_is_refused_unless_it_is_allowed(tmp_path, said):
    path = write(tmp_path / "a.dcm", RAMP, bits=8, BurnedInAnnotation="YESYES")
    path.write_bytes(path.read_bytes().replace(b"YESYES", said.ljust(6).encode()))
    with pytest.raises(UnreadableError, match=r"^the DICOM file says that text is burned into"):
        image_of(path)
    np.testing.assert_array_equal(image_of(path, burned_in=True), RAMP)


@pytest.mark.parametrize("said", ["NO", "", None])
def test_an_image_that_says_it_has_no_text_is_read(tmp_path, said):
    np.testing.assert_array_equal(
        image_of(write(tmp_path / "a.dcm", RAMP, bits=8, BurnedInAnnotation=said)), RAMP
    )


def test_what_sequences_hold_besides_is_taken_out_unread(tmp_path):
    groups = group(
        PixelValueTransformationSequence={**rescaled(2, 0), "PatientName": "Not^Read"},
        FrameContentSequence={"FrameComments": "not read", "FrameAcquisitionDateTime": "2020"},
    )
    groups.OtherPatientIDsSequence = Sequence([group()])
    groups.add_new((0x0009, 0x0010), "LO", "Not Read")
    path = write(
        tmp_path / "a.dcm", RAMP, bits=8, SharedFunctionalGroupsSequence=Sequence([groups])
    )
    dataset = read_tags(path, ALLOWED_TAGS)
    (kept,) = dataset.SharedFunctionalGroupsSequence
    assert [element.keyword for element in kept] == ["PixelValueTransformationSequence"]
    (values,) = kept.PixelValueTransformationSequence
    assert {element.keyword for element in values} == {"RescaleSlope", "RescaleIntercept"}
    assert "not" not in str(dataset).lower()
    np.testing.assert_array_equal(image_of(path), RAMP * 2)


def test_nothing_of_a_header_is_logged(tmp_path, caplog):
    path = write(tmp_path / "a.dcm", RAMP, bits=8, RescaleSlope=1, RescaleIntercept=0)
    dataset = pydicom.dcmread(path)
    dataset.PixelData += b"\0" * 6
    dataset.save_as(path)
    with caplog.at_level("DEBUG"):
        image_of(path)
    assert not caplog.records


PHRASES = {
    "the file is not a DICOM file",
    "the DICOM file is truncated or damaged",
    "the DICOM file has no pixel data or is truncated",
    "the DICOM file does not say its transfer syntax",
    "the DICOM file's transfer syntax is none for images",
    "the DICOM image is neither grey nor in colours that are known",
    "the DICOM image does not have the samples of its kind of colour",
    "the DICOM image does not have 8 to 16 bits",
    "the DICOM image has its bits in an unusual place",
    "the pixel data is truncated or damaged",
    *(
        f"the pixel data cannot be decoded: damaged, or of a kind of {syntax} that no installed "
        "codec reads (wardround[codecs] has more)"
        for syntax in ("RLE Lossless", "JPEG Baseline (Process 1)")
    ),
}


@pytest.mark.parametrize(
    ("name", "within"),
    [("MR_small.dcm", 1600), ("MR_small_RLE.dcm", None), ("SC_rgb_small_odd_jpeg.dcm", None)],
)
def test_a_damaged_file_is_read_or_set_aside_and_never_anything_else(tmp_path, name, within):
    whole = Path(get_testdata_file(name)).read_bytes()
    path = tmp_path / "a.dcm"
    outcomes = set()
    for content in damaged(whole, 120, within=within):
        path.write_bytes(content)
        try:
            outcomes.add(read_dicom(path, frames="all", voi=True)[0].main.ndim)
        except UnreadableError as error:
            outcomes.add(str(error))
    # Some damage cannot be seen, and for all that can there are a few phrases, which quote nothing.
    read = outcomes & {2, 3}
    assert read
    assert outcomes - read <= PHRASES


@pytest.mark.timeout(20)
def test_a_box_of_no_length_does_not_keep_the_reader_for_ever(tmp_path):
    whole = Path(get_testdata_file("GDCMJ2K_TextGBR.dcm")).read_bytes()
    box = whole.index(b"\x00\x00\x00\x0cjP  ") + 12
    path = tmp_path / "a.dcm"
    assert image_of(Path(get_testdata_file("GDCMJ2K_TextGBR.dcm"))).shape == (400, 400, 3)
    path.write_bytes(whole[:box] + b"\0" * 4 + whole[box + 4 :])
    with pytest.raises(UnreadableError, match="cannot be decoded"):
        image_of(path)
