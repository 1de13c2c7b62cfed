"""Columns of the label table beside an image: of the right row, whatever kind of file it is."""

import nibabel
import numpy as np
import pytest
from dicom_files import RAMP, write
from PIL import Image

from wardround_client.sources.index import columns_read
from wardround_shared.errors import DataError

STATIC = """
label = { column = "finding" }
patient = "who"
unreadable-share = 0.5
static = [
    { column = "age", missing = ["?"] },
    { column = "sex", kind = "categorical", categories = ["F", "M"] },
    { column = "age", missing = ["?"], form = "over-patient" },
]
"""


def files(source, more=""):
    head = f'[data]\nsource = "{source}"\ntable = ["labels.csv"]\nfile = "file"\n'
    return head + more + STATIC


TABLE = """file,finding,who,age,sex
a.{end},present,p,40,F
b.{end},absent,p,60,M
c.{end},absent,q,?,
d.{end},absent,r,fifty,M
"""
EXPECTED = {"a": [40.0, 0.0, 0.8], "b": [60.0, 1.0, 1.2], "c": [np.nan, np.nan, np.nan]}
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 12), dtype=np.uint8)
IMAGE = {"task": "image-classification"}


def png(path):
    Image.fromarray(PIXELS).save(path)


def nifti(path):
    volume = np.stack([PIXELS] * 4, axis=2).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)


def dicom(path):
    write(path, RAMP, bits=8)


KINDS = [
    ("images", "png", png, "", 1),
    ("dicom", "dcm", dicom, "", 1),
    ("nifti", "nii", nifti, "slices = [1, 3]\n", 2),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0])
def test_each_example_has_the_columns_of_its_row(tmp_path, study_of, read, kind):
    source, end, save, more, parts = kind
    for name in "abcd":
        save(tmp_path / f"{name}.{end}")
    (tmp_path / "labels.csv").write_text(TABLE.format(end=end))
    study = study_of(files(source, more), **IMAGE)
    records, aside, _ = read(study, tmp_path)
    assert len(records) == 3 * parts
    for record, expected in zip(records, np.repeat(list(EXPECTED.values()), parts, 0), strict=True):
        np.testing.assert_array_equal(record.static, expected)
    assert [one.reason for one in aside] == ["column age holds no finite number"]


def test_arrays_bring_columns_of_their_own_prefix(tmp_path, study_of, read):
    arrays = {
        f"{name}_{key}": value
        for name, ages in (("train", [40, 60]), ("val", [30, 90]))
        for key, value in (
            ("images", np.stack([PIXELS] * 2)),
            ("labels", np.array([0, 1])),
            ("ages", np.array(ages)),
        )
    }
    np.savez(tmp_path / "a.npz", **arrays)
    study = study_of(
        '[data]\nsource = "images"\narrays = ["*.npz"]\nstatic = [{ column = "*ages" }]\n'
        'label = { column = "*labels", values = { absent = ["0"], present = ["1"] } }\n',
        **IMAGE,
    )
    records, _, _ = read(study, tmp_path)
    assert [record.static.tolist() for record in records] == [[40.0], [60.0], [30.0], [90.0]]


def test_a_column_that_is_not_there_is_named(tmp_path, study_of, read):
    png(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("file,finding,who,sex\na.png,present,p,F\n")
    study = study_of(files("images"), **IMAGE)
    with pytest.raises(DataError, match="there is no column 'age'"):
        read(study, tmp_path)


def test_a_hospital_is_told_that_the_columns_are_read(study_of):
    for source, _, _, more, _ in KINDS:
        study = study_of(files(source, more), **IMAGE)
        assert {"age", "sex", "file"} <= set(columns_read(study.data))


def test_nothing_of_the_header_stands_in_for_a_column(tmp_path, study_of, read):
    write(tmp_path / "a.dcm", RAMP, bits=8, PatientAge="061Y", PatientSex="F")
    (tmp_path / "labels.csv").write_text("file,finding,who,age,sex\na.dcm,present,p,,\n")
    study = study_of(files("dicom"), **IMAGE)
    ((record,), _, _) = read(study, tmp_path)
    assert np.isnan(record.static).all()
