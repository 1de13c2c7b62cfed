"""Images: what is read is what was written, and what is no image is set aside."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from wardround_client.sources import open_source
from wardround_client.sources.images import read_image
from wardround_shared.errors import DataError, StudyError, UnreadableError

FILES = """
[data]
source = "images"
table = ["labels.csv"]
file = "file"
folder = "pictures"
label = { column = "finding" }
"""
ARRAYS = """
[data]
source = "images"
arrays = ["*.npz"]
label = { column = "*labels", values = { absent = ["0"], present = ["1"] } }
"""
IMAGE = {"task": "image-classification"}
RANDOM = np.random.default_rng(1)
GREY = RANDOM.integers(0, 256, (12, 9), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (12, 9), dtype=np.uint16)
COLOUR = RANDOM.integers(0, 256, (12, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (GREY, GREY),
        (DEEP, DEEP),
        (COLOUR, COLOUR),
        (np.repeat(GREY[..., None], 3, axis=2), GREY),
        (np.dstack([COLOUR, GREY]), COLOUR),
        (GREY > 100, np.where(GREY > 100, 255, 0).astype(np.uint8)),
    ],
    ids=["grey", "16 bit", "colour", "grey stored as colour", "alpha", "one bit"],
)
def test_png_pixels_come_back_as_stored(tmp_path, stored, expected):
    Image.fromarray(stored).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == expected.dtype
    np.testing.assert_array_equal(image, expected)


def test_jpeg_is_read(tmp_path):
    Image.fromarray(np.full((16, 16), 77, np.uint8)).save(tmp_path / "a.jpg")
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg"), 77, atol=1)


def test_other_formats_are_not_even_tried(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.tiff")
    with pytest.raises(UnreadableError, match="not a PNG or JPEG"):
        read_image(tmp_path / "a.tiff")


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("good.png", "cut.png", "unlisted.PNG"):
        Image.fromarray(DEEP).save(pictures / name)
    (pictures / "cut.png").write_bytes((pictures / "cut.png").read_bytes()[:80])
    (pictures / "text.png").write_text("this is no picture")
    Image.fromarray(DEEP).save(tmp_path / "outside.png")
    names = ["good.png", "cut.png", "text.png", "gone.png", "../outside.png", "/etc/passwd", ""]
    lines = ["file,finding", *[f"{name},present" for name in names], "good.png,"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path


def test_each_unreadable_file_has_its_reason(folder, study_of, read):
    records, aside, notes = read(study_of(FILES, **IMAGE), folder)
    assert [r.key for r in records] == ["labels.csv:2"]
    assert Counter(a.reason for a in aside) == {
        "no label": 1,
        "the image is truncated or damaged": 1,
        "the file is not a PNG or JPEG image": 1,
        "the file is not there": 1,
        "the table names no file inside the data folder": 2,
        "no patient key": 1,
    }
    assert notes == ("pictures: 1 image files are in no label table and are left out.",)


def test_the_fingerprint_follows_the_pictures(folder, study_of):
    study = study_of(FILES, **IMAGE)
    before = open_source(study, folder).fingerprint()
    assert open_source(study, folder).fingerprint() == before
    Image.fromarray(GREY).save(folder / "pictures" / "good.png")
    assert open_source(study, folder).fingerprint() != before


def test_the_site_may_be_the_pictures_folder(tmp_path, study_of, read):
    for place in ("north", "south"):
        (tmp_path / "pictures" / place).mkdir(parents=True)
        Image.fromarray(GREY).save(tmp_path / "pictures" / place / "1.png")
    (tmp_path / "labels.csv").write_text("file,finding\nnorth/1.png,absent\nsouth/1.png,present\n")
    records, _, _ = read(study_of(FILES + "site = { folder = true }\n", **IMAGE), tmp_path)
    assert [r.site for r in records] == ["north", "south"]


def test_label_arrays_go_with_the_images_of_the_same_prefix(tmp_path, study_of, read):
    np.savez(
        tmp_path / "a.npz",
        train_images=np.stack([GREY, GREY]),
        train_labels=np.array([[1], [0]], dtype=np.uint8),
        val_images=DEEP[None],
        val_labels=np.array([1]),
        about=np.array("not a column"),
    )
    records, aside, _ = read(study_of(ARRAYS, **IMAGE), tmp_path)
    assert not aside
    assert [r.stratum for r in records] == [1, 0, 1]
    assert [r.main.dtype for r in records] == [np.uint8, np.uint8, np.uint16]
    np.testing.assert_array_equal(records[2].main, DEEP)


def test_plain_names_need_no_pattern(tmp_path, study_of, read):
    np.savez(tmp_path / "a.npz", images=GREY[None], labels=np.array([0.0]))
    plain = ARRAYS.replace("*labels", "labels") + 'images = "images"\n'
    assert [r.stratum for r in read(study_of(plain, **IMAGE), tmp_path)[0]] == [0]


def test_arrays_without_labels_name_those_that_there_are(tmp_path, study_of, read):
    np.savez(tmp_path / "a.npz", images=GREY[None])
    with pytest.raises(DataError, match=r"a\.npz: there is no column '\*labels'.*are images"):
        read(study_of(ARRAYS, **IMAGE), tmp_path)
    np.savez(tmp_path / "a.npz", pictures=GREY[None])
    with pytest.raises(DataError, match=r"no array matches '\*images'; the arrays are pictures"):
        read(study_of(ARRAYS, **IMAGE), tmp_path)


def test_a_damaged_npz_file_is_set_aside(tmp_path, study_of, read):
    np.savez(tmp_path / "a.npz", images=GREY[None], labels=np.array([1]))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(content[: len(content) // 2])
    np.savez(tmp_path / "c.npz", images=np.array([{}], dtype=object), labels=np.array([1]))
    records, aside, _ = read(study_of(ARRAYS, **IMAGE), tmp_path)
    assert len(records) == 1
    assert {a.key for a in aside} == {"b.npz", "c.npz:images:0"}


def test_fewer_images_than_labels_are_set_aside(tmp_path, study_of, read):
    np.savez(tmp_path / "a.npz", images=GREY[None], labels=np.array([1, 0]))
    records, aside, _ = read(study_of(ARRAYS, **IMAGE), tmp_path)
    assert (len(records), len(aside)) == (0, 2)


def test_a_table_beside_arrays_is_refused(tmp_path, study_of):
    with pytest.raises(StudyError, match=r"data\.table: with arrays"):
        open_source(study_of(ARRAYS + 'table = ["a.csv"]\n', **IMAGE), tmp_path)
