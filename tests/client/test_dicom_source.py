"""DICOM: the right units whatever the vendor wrote, and one account of what a study takes."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import FRAMES, RAMP, image_of, write
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from wardround_client.sources import open_source
from wardround_client.sources.dicom import ALLOWED_TAGS
from wardround_client.sources.dicom_header import read_tags
from wardround_shared.errors import CohortError, StudyError, UnreadableError, UnsupportedError


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (10, False), (12, True), (16, True)])
def test_rescale_gives_modality_units_at_any_depth(tmp_path, bits, signed):
    stored = RAMP - 5 if signed else RAMP
    path = write(
        tmp_path / "a.dcm", stored, bits=bits, signed=signed, RescaleSlope=2, RescaleIntercept=-1024
    )
    image = image_of(path)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, stored * 2.0 - 1024)


def test_monochrome1_is_inverted_within_the_range_of_the_file(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP, bits=10, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(image_of(path), 1023.0 - RAMP)


def test_inversion_comes_after_the_rescale(tmp_path):
    path = write(
        tmp_path / "a.dcm",
        RAMP - 5,
        bits=8,
        signed=True,
        PhotometricInterpretation="MONOCHROME1",
        RescaleSlope=3,
        RescaleIntercept=10,
    )
    # -128..127 becomes -374..391; their sum less the value is the inverted value.
    np.testing.assert_array_equal(image_of(path), 17.0 - ((RAMP - 5) * 3 + 10))


def test_bits_above_those_stored_are_ignored(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP + 0xF000, bits=12)
    np.testing.assert_array_equal(image_of(path), RAMP)


def lut(entries, first, depth) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, depth]
    item.LUTData = entries
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return item


def test_a_modality_lut_is_applied(tmp_path):
    item = lut([100 + i * i for i in range(12)], 0, 16)
    item.ModalityLUTType = "OD"
    path = write(tmp_path / "a.dcm", RAMP, bits=8, ModalityLUTSequence=Sequence([item]))
    np.testing.assert_array_equal(image_of(path), 100.0 + RAMP**2)


def test_the_voi_window_is_applied_only_when_asked_for(tmp_path):
    path = write(
        tmp_path / "a.dcm",
        RAMP,
        bits=8,
        WindowCenter=[6, 1],
        WindowWidth=[4, 2],
        RescaleSlope=1,
        RescaleIntercept=0,
    )
    np.testing.assert_array_equal(image_of(path), RAMP)
    windowed = image_of(path, voi=True)
    # PS3.3 C.11.2.1.2.1: x <= c - 0.5 - (w - 1) / 2 is the minimum, above the other end maximum.
    expected = np.clip(((RAMP - 5.5) / 3 + 0.5) * 255, 0, 255)
    np.testing.assert_allclose(windowed, expected, rtol=1e-6)


def test_a_voi_lut_decides_the_range_of_the_inversion(tmp_path):
    item = lut([i * 10 for i in range(12)], 0, 8)
    path = write(
        tmp_path / "a.dcm",
        RAMP,
        bits=12,
        VOILUTSequence=Sequence([item]),
        PhotometricInterpretation="MONOCHROME1",
    )
    np.testing.assert_array_equal(image_of(path, voi=True), 255.0 - RAMP * 10)


def test_tags_outside_the_list_are_never_parsed(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP, bits=8, InstitutionName="Not Read", StudyDate="20200101")
    dataset = read_tags(path, ALLOWED_TAGS)
    for name in ("PatientName", "PatientID", "InstitutionName", "StudyDate"):
        assert name not in dataset
    assert "PixelData" in dataset
    assert "Not" not in str(dataset)


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
    ],
)
def test_transfer_syntaxes_of_one_image_agree(name, like):
    pytest.importorskip("openjpeg", reason="the extra 'codecs' is not installed")
    np.testing.assert_array_equal(
        image_of(Path(get_testdata_file(name))), image_of(Path(get_testdata_file(like)))
    )


def test_lossy_jpeg_of_12_bit_is_read():
    pytest.importorskip("libjpeg", reason="the extra 'codecs' is not installed")
    image = image_of(Path(get_testdata_file("JPGExtended.dcm")))
    assert image.shape == (1024, 256)
    assert image.max() > 255


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MR_truncated.dcm", "the pixel data is truncated or damaged"),
        ("rtdose.dcm", "more than one frame"),
        ("nested_priv_SQ.dcm", "neither grey nor in colours"),
        ("waveform_ecg.dcm", "no pixel data"),
        ("no_meta.dcm", "not a DICOM file"),
        ("badVR.dcm", "8 to 16 bits|damaged"),
    ],
)
def test_what_is_no_such_image_has_its_reason(name, reason):
    with pytest.raises(UnreadableError, match=reason):
        image_of(Path(get_testdata_file(name)))


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 0.999])
def test_a_file_cut_anywhere_is_unreadable(tmp_path, share):
    whole = Path(get_testdata_file("CT_small.dcm")).read_bytes()
    # Behind the image the file has 126 bytes of padding, which nobody misses.
    end = len(whole) - 138
    path = tmp_path / "a.dcm"
    path.write_bytes(whole[: int(end * share)])
    with pytest.raises(UnreadableError):
        image_of(path)


def test_more_than_one_frame_is_refused(tmp_path):
    path = write(tmp_path / "a.dcm", np.stack([RAMP, RAMP]), bits=8)
    with pytest.raises(UnreadableError, match="more than one frame"):
        image_of(path)


def test_warnings_about_the_header_do_not_come_through(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write(tmp_path / "a.dcm", RAMP, bits=8, RescaleSlope=1, RescaleIntercept=0)
        dataset = pydicom.dcmread(path)
        dataset.PixelData += b"\0" * 6
        dataset.save_as(path)
    np.testing.assert_array_equal(image_of(path), RAMP)


TABLE = """
[data]
source = "dicom"
table = ["labels.csv"]
file = "file"
folder = "scans"
label = { column = "finding" }
patient = "patient"
"""


def test_a_folder_tree_with_damaged_files_is_read_and_accounted_for(tmp_path, study_of, read):
    scans = tmp_path / "scans" / "deep"
    scans.mkdir(parents=True)
    whole = write(scans / "a.dcm", RAMP, bits=12).read_bytes()
    (scans / "cut.dcm").write_bytes(whole[:-4])
    (scans / "unlisted.dcm").write_bytes(whole)
    names = ["a", "cut", "gone"]
    rows = ["file,finding,patient", *[f"deep/{name}.dcm,present,{name}" for name in names]]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    records, aside, notes = read(study_of(TABLE, task="image-classification"), tmp_path)
    assert [(r.key, r.patient) for r in records] == [("labels.csv:2", "a")]
    assert {(a.key, a.reason) for a in aside} == {
        ("labels.csv:3", "the pixel data is truncated or damaged"),
        ("labels.csv:4", "the file is not there"),
    }
    assert notes == ("scans: 1 image files are in no label table and are left out.",)


def test_phantoms_read_from_the_folder_that_they_were_written_to(tmp_path, study_of, read):
    write(tmp_path / "1.dcm", RAMP, bits=12)
    (tmp_path / "labels.csv").write_text("file,site,patient,finding\n1.dcm,site-1,p1,present\n")
    study = study_of('[data]\nsource = "phantom"\n', task="image-classification")
    records, aside, _ = read(study, tmp_path)
    assert [(r.site, r.patient, r.stratum) for r in records] == [("site-1", "p1", 1)]
    assert not aside


def with_frames(frames: str, *, patient: bool = True) -> str:
    table = TABLE if patient else TABLE.replace('patient = "patient"\n', "")
    return f"{table}frames = {frames}\n"


def test_frames_are_examples_of_one_patient_and_a_lost_file_counts_as_a_file(
    tmp_path, study_of, read
):
    (tmp_path / "scans").mkdir()
    write(tmp_path / "scans" / "a.dcm", FRAMES, bits=8)
    write(tmp_path / "scans" / "b.dcm", RAMP, bits=8)
    (tmp_path / "labels.csv").write_text("file,finding,patient\na.dcm,present,p\nb.dcm,absent,q\n")
    study = study_of(with_frames('"all"'), task="image-classification")
    records, aside, _ = read(study, tmp_path)
    assert [(r.key, r.patient, r.stratum) for r in records] == [
        *[(f"labels.csv:2#{number}", "p", 1) for number in (1, 2, 3, 4)],
        ("labels.csv:3", "q", 0),
    ]
    assert not aside
    (tmp_path / "scans" / "b.dcm").write_bytes(b"no DICOM")
    with pytest.raises(CohortError, match=r"1 of 2 files cannot be read \(labels.csv:3 for one\)"):
        read(study, tmp_path)


@pytest.mark.parametrize(
    "frames", ['"last"', "[]", "[0]", "[1.5]", "[true]", "[-1]", "1", '["middle"]']
)
def test_frames_that_are_none_are_refused(study_of, frames):
    with pytest.raises(StudyError, match=r'data.frames: write "middle", "all", or a list'):
        study_of(with_frames(frames), task="image-classification")


def test_several_frames_need_a_patient_key_and_take_no_bound_by_rows(study_of):
    with pytest.raises(StudyError, match=r"data.frames: .* in data.patient"):
        study_of(with_frames('"all"', patient=False), task="image-classification")
    with pytest.raises(UnsupportedError, match=r"data.max-per-patient: 3 cannot be combined"):
        study_of(with_frames("[1, 2]\nmax-per-patient = 3"), task="image-classification")
    study_of(with_frames('"middle"', patient=False), task="image-classification")


def test_whether_burned_in_text_is_read_is_for_whoever_keeps_the_data(tmp_path, study_of):
    (tmp_path / "scans").mkdir()
    write(tmp_path / "scans" / "a.dcm", RAMP, bits=8, BurnedInAnnotation="YES")
    (tmp_path / "labels.csv").write_text("file,finding,patient\na.dcm,present,p\n")
    simulation = "[simulation]\nallow-burned-in-annotation = true\n"
    study = study_of(TABLE, task="image-classification", preprocessing=simulation)
    # The study's key is for simulations, which pass it on themselves.
    (refused,) = open_source(study, tmp_path).records()
    assert refused.reason == "the DICOM file says that text is burned into the image"
    (taken,) = open_source(study, tmp_path, burned_in=True).records()
    np.testing.assert_array_equal(taken.main, RAMP)


def test_the_key_for_burned_in_text_has_no_place_without_dicom(study_of):
    data = '[data]\nsource = "phantom"\n[simulation]\nallow-burned-in-annotation = true\n'
    with pytest.raises(StudyError, match=r"simulation.allow-burned-in-annotation: true has no"):
        study_of(data, task="image-classification")
