"""NIfTI: slices that show the same side of the patient however the volume was stored."""

import gzip
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from damage import damaged
from hypothesis import given
from hypothesis import strategies as st

from wardround_client.sources.nifti import read_nifti
from wardround_client.sources.places import chosen
from wardround_shared.errors import StudyError, UnreadableError, UnsupportedError

nibabel = pytest.importorskip("nibabel", reason="the extra 'nifti' is not installed")

# Voxel (x, y, z) holds 100 x + 10 y + z: x to the patient's right, y to the front, z to the head.
VOLUME = (
    100 * np.arange(4)[:, None, None] + 10 * np.arange(5)[None, :, None] + np.arange(6)
).astype(np.int16)


def write(path: Path, volume=VOLUME, affine=None, **header) -> Path:
    image = nibabel.Nifti1Image(volume, np.eye(4) if affine is None else affine)
    image.header["descrip"] = "SECRET"
    for name, value in header.items():
        image.header[name] = value
    image.to_filename(path)
    return path


def one(path: Path, axis: str = "axial", slices="middle") -> np.ndarray:
    (reading,) = read_nifti(path, axis=axis, slices=slices)
    return reading.main


def refused(path: Path, axis: str = "axial", slices="middle") -> str:
    with pytest.raises(UnreadableError) as caught:
        read_nifti(path, axis=axis, slices=slices)
    return str(caught.value)


def test_slices_are_seen_as_radiologists_see_them(tmp_path):
    path = write(tmp_path / "a.nii")
    axial, coronal = one(path), one(path, "coronal")
    sagittal = one(path, "sagittal")
    assert (axial.shape, coronal.shape, sagittal.shape) == ((5, 4), (6, 4), (6, 5))
    # Corners: above is the front or the head, on the left the patient's right or the front.
    assert [axial[0, 0], axial[0, -1], axial[-1, 0]] == [343, 43, 303]
    assert [coronal[0, 0], coronal[0, -1], coronal[-1, 0]] == [325, 25, 320]
    assert [sagittal[0, 0], sagittal[0, -1], sagittal[-1, 0]] == [245, 205, 240]
    assert axial.dtype == np.float32


@pytest.mark.parametrize("axes", [*permutations(range(3))])
def test_however_the_volume_is_stored_the_slices_are_the_same(tmp_path, axes):
    expected = [one(write(tmp_path / "a.nii"), axis, (1, 3)[:1]) for axis in ("axial", "coronal")]
    for signs in product((1, -1), repeat=3):
        stored = VOLUME.transpose(axes)
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for place, axis in enumerate(axes):
            affine[axis, place] = signs[place] * (2.5 if axis == 2 else 0.8)
            if signs[place] < 0:
                stored = np.flip(stored, place)
        path = write(tmp_path / "b.nii", stored, affine)
        for axis, slice_ in zip(("axial", "coronal"), expected, strict=True):
            np.testing.assert_array_equal(one(path, axis, (1,)), slice_)


def test_a_tilted_volume_is_taken_along_its_nearest_axis(tmp_path):
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    np.testing.assert_array_equal(
        one(write(tmp_path / "a.nii", affine=turn)), one(write(tmp_path / "b.nii"))
    )


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII"])
@pytest.mark.parametrize("kind", ["int16", "uint8", "float32", "int32"])
def test_values_are_scaled_as_the_file_says(tmp_path, ending, kind):
    stored = np.minimum(VOLUME, 100).astype(kind)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(2.5, -1000)
    image.to_filename(tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    # Written as it is: nibabel itself would scale the values so that they stay the same.
    whole = content[:352] + stored.tobytes(order="F")
    path = tmp_path / f"b{ending}"
    path.write_bytes(gzip.compress(whole) if ending.endswith("gz") else whole)
    expected = stored[:, :, 3].T[::-1, ::-1] * 2.5 - 1000
    np.testing.assert_allclose(one(path), expected)


def test_several_slices_are_counted_from_the_feet(tmp_path):
    path = write(tmp_path / "a.nii")
    found = read_nifti(path, axis="axial", slices=(1, 0.5, 6))
    assert [(r.part, int(r.main[-1, -1])) for r in found] == [("#1", 0), ("#4", 3), ("#6", 5)]
    assert len(read_nifti(path, axis="sagittal", slices="all")) == 4


def test_faults_have_their_phrases(tmp_path):
    path = write(tmp_path / "a.nii")
    assert refused(path, slices=(7,)) == "there are fewer frames or slices than the study names"
    unknown, content = tmp_path / "b.nii", path.read_bytes()
    # Neither qform nor sform is in force.
    unknown.write_bytes(content[:252] + b"\0\0\0\0" + content[256:])
    assert refused(unknown) == "the NIfTI file does not say how the volume lies in the patient"
    flat = tmp_path / "c.nii"
    # The third row of the sform: no voxel is any higher than another.
    flat.write_bytes(content[:252] + b"\0\0" + content[254:312] + b"\0" * 16 + content[328:])
    assert refused(flat) == "the NIfTI file does not say how the volume lies in the patient"
    series = write(tmp_path / "d.nii", np.stack([VOLUME, VOLUME], -1))
    assert refused(series) == "the NIfTI file does not hold one volume of three axes"
    complex_ = write(tmp_path / "e.nii", VOLUME.astype(np.complex64))
    assert refused(complex_) == "the NIfTI volume is not grey"
    (tmp_path / "f.nii").write_bytes(b"SECRET" * 100)
    assert refused(tmp_path / "f.nii") == "the file is not a NIfTI file"
    path.rename(tmp_path / "a.img")
    assert refused(tmp_path / "a.img") == "the file is not a .nii or .nii.gz file"
    with pytest.raises(FileNotFoundError):
        read_nifti(tmp_path / "gone.nii", axis="axial", slices="all")


def test_a_volume_of_one_time_point_is_a_volume(tmp_path):
    np.testing.assert_array_equal(
        one(write(tmp_path / "a.nii", VOLUME[..., None])), one(write(tmp_path / "b.nii"))
    )


def test_a_header_that_asks_for_more_than_there_is_costs_nothing(tmp_path):
    path = write(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([32767] * 3, dtype="<i2").tobytes()
    path.write_bytes(bytes(content))
    assert refused(path) == "the NIfTI volume is too large"


PHRASES = {
    "the file is not a NIfTI file",
    "the NIfTI file is truncated or damaged",
    "the NIfTI file does not hold one volume of three axes",
    "the NIfTI file does not say how the volume lies in the patient",
    "the NIfTI volume is not grey",
    "the NIfTI volume is too large",
    "there are fewer frames or slices than the study names",
}


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_damaged_file_is_read_or_set_aside_and_never_anything_else(tmp_path, capfd, ending):
    whole = write(tmp_path / f"a{ending}").read_bytes()
    path, outcomes = tmp_path / f"b{ending}", set()
    for content in damaged(whole, 300, within=352 if ending == ".nii" else None):
        path.write_bytes(content)
        try:
            outcomes.add(read_nifti(path, axis="axial", slices=(2,))[0].main.ndim)
        except UnreadableError as error:
            outcomes.add(str(error))
    assert {2} < outcomes
    assert {one for one in outcomes if isinstance(one, str)} <= PHRASES
    assert capfd.readouterr() == ("", "")


@given(count=st.integers(1, 400), share=st.floats(0.001, 0.999))
def test_a_share_of_the_way_is_a_slice_that_is_there(count, share):
    (place,) = chosen((share,), count)
    assert place <= share * count < place + 1
    assert chosen("middle", count) == (count // 2,)


TABLE = """
[data]
source = "nifti"
table = ["labels.csv"]
file = "file"
label = { column = "finding" }
patient = "patient"
"""


def test_a_folder_of_volumes_is_read_and_accounted_for(tmp_path, study_of, read):
    write(tmp_path / "a.nii.gz")
    noise = np.random.default_rng(1).integers(0, 9999, (16, 16, 16)).astype(np.int16)
    (tmp_path / "b.nii.gz").write_bytes(write(tmp_path / "b.nii.gz", noise).read_bytes()[:-400])
    rows = "file,finding,patient\na.nii.gz,present,p\nb.nii.gz,absent,q\n"
    (tmp_path / "labels.csv").write_text(rows)
    text = TABLE + 'axis = "coronal"\nslices = [0.2, 0.8]\nunreadable-share = 0.5\n'
    records, aside, _ = read(study_of(text, task="image-classification"), tmp_path)
    assert [(r.key, r.patient, r.stratum) for r in records] == [
        ("labels.csv:2#2", "p", 1),
        ("labels.csv:2#5", "p", 1),
    ]
    assert [(a.key, a.reason) for a in aside] == [
        ("labels.csv:3", "the NIfTI file is truncated or damaged")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "data.slices: this key is required"),
        ('slices = "first"\n', r'data.slices: write "middle", "all"'),
        ('slices = "middle"\naxis = "oblique"\n', "data.axis"),
    ],
)
def test_slices_that_are_none_are_refused(study_of, text, message):
    with pytest.raises(StudyError, match=message):
        study_of(TABLE + text, task="image-classification")


def test_without_the_library_the_study_is_refused_in_one_sentence(
    tmp_path, study_of, read, monkeypatch
):
    import sys

    monkeypatch.setitem(sys.modules, "nibabel", None)
    study = study_of(TABLE + 'slices = "middle"\n', task="image-classification")
    with pytest.raises(UnsupportedError, match=r"install wardround\[nifti\]\.$"):
        read(study, tmp_path)
