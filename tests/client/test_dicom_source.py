"""DICOM: the right units whatever the vendor wrote, and never a tag that names a patient."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from wardround_client.sources.dicom import read_dicom, read_header
from wardround_shared.errors import UnreadableError

RAMP = np.arange(12).reshape(3, 4)


def write(path: Path, stored: np.ndarray, *, bits: int, signed: bool = False, **tags) -> Path:
    """A small single-frame file; `tags` override or add elements."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.PatientName = "Not^Read"
    dataset.PatientID = "not-read"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 if bits <= 8 else 16
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    kind = f"{'i' if signed else 'u'}{dataset.BitsAllocated // 8}"
    dataset.PixelData = stored.astype(f"<{kind}").tobytes()
    dataset["PixelData"].VR = "OW"
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (10, False), (12, True), (16, True)])
def test_rescale_gives_modality_units_at_any_depth(tmp_path, bits, signed):
    stored = RAMP - 5 if signed else RAMP
    path = write(
        tmp_path / "a.dcm", stored, bits=bits, signed=signed, RescaleSlope=2, RescaleIntercept=-1024
    )
    image = read_dicom(path)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, stored * 2.0 - 1024)


def test_monochrome1_is_inverted_within_the_range_of_the_file(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP, bits=10, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_dicom(path), 1023.0 - RAMP)


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
    np.testing.assert_array_equal(read_dicom(path), 17.0 - ((RAMP - 5) * 3 + 10))


def test_bits_above_those_stored_are_ignored(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP + 0xF000, bits=12)
    np.testing.assert_array_equal(read_dicom(path), RAMP)


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
    np.testing.assert_array_equal(read_dicom(path), 100.0 + RAMP**2)


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
    np.testing.assert_array_equal(read_dicom(path), RAMP)
    windowed = read_dicom(path, voi=True)
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
    np.testing.assert_array_equal(read_dicom(path, voi=True), 255.0 - RAMP * 10)


def test_tags_outside_the_list_are_never_parsed(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP, bits=8, InstitutionName="Not Read", StudyDate="20200101")
    dataset = read_header(path)
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
        read_dicom(Path(get_testdata_file(name))), read_dicom(Path(get_testdata_file(like)))
    )


def test_lossy_jpeg_of_12_bit_is_read():
    pytest.importorskip("libjpeg", reason="the extra 'codecs' is not installed")
    image = read_dicom(Path(get_testdata_file("JPGExtended.dcm")))
    assert image.shape == (1024, 256)
    assert image.max() > 255


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MR_truncated.dcm", "the pixel data is truncated or damaged"),
        ("examples_palette.dcm", "not greyscale"),
        ("rtdose.dcm", "8 to 16 bits"),
        ("nested_priv_SQ.dcm", "not greyscale|no pixel data"),
        ("no_meta.dcm", "not a DICOM file"),
        ("badVR.dcm", "8 to 16 bits|damaged"),
    ],
)
def test_what_is_no_such_image_has_its_reason(name, reason):
    with pytest.raises(UnreadableError, match=reason):
        read_dicom(Path(get_testdata_file(name)))


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 0.999])
def test_a_file_cut_anywhere_is_unreadable(tmp_path, share):
    whole = Path(get_testdata_file("CT_small.dcm")).read_bytes()
    # Behind the image the file has 126 bytes of padding, which nobody misses.
    end = len(whole) - 138
    path = tmp_path / "a.dcm"
    path.write_bytes(whole[: int(end * share)])
    with pytest.raises(UnreadableError):
        read_dicom(path)


def test_more_than_one_frame_is_refused(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP, bits=8, NumberOfFrames=2)
    with pytest.raises(UnreadableError, match="more than one frame"):
        read_dicom(path)


def test_warnings_about_the_header_do_not_come_through(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write(tmp_path / "a.dcm", RAMP, bits=8, RescaleSlope=1, RescaleIntercept=0)
        dataset = pydicom.dcmread(path)
        dataset.PixelData += b"\0" * 6
        dataset.save_as(path)
    np.testing.assert_array_equal(read_dicom(path), RAMP)


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
