"""Masks and points: read with their images, or set aside with a reason."""

import numpy as np
import pytest
from PIL import Image

from wardround_client.sources import RawRecord, SetAside, open_source
from wardround_client.sources.pictures import largest_above
from wardround_shared.errors import StudyError, UnreadableError
from wardround_shared.network import build_network
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import parse_study

STUDY = """
[study]
name = "lesions"
task = "image-segmentation"
classes = ["outside", "lesion"]

[data]
source = "images"
table = ["images.csv"]
file = "file"
mask = { column = "mask" }

[model]
name = "unet"

[training]
rounds = 1
learning-rate = 0.1

[privacy]
mechanism = "none"

[simulation]
sites = 3
"""
POINTS = (
    STUDY.replace("segmentation", "localisation")
    .replace('classes = ["outside", "lesion"]', 'classes = ["lesion"]')
    .replace(
        'mask = { column = "mask" }',
        'points = { row = "row", column = "column", radius = "radius", most = 2 }',
    )
)


SEVERAL = 'data={source="dicom",table=["t"],file="f",patient="p",frames="all",WHAT}'


def study(*changes, text=STUDY):
    return parse_study(text, origin="lesions.toml", overrides=changes)


def picture(path, array):
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)


def read(folder, *changes, text=STUDY):
    return list(open_source(study(*changes, text=text), folder).records())


@pytest.fixture
def folder(tmp_path):
    picture(tmp_path / "a.png", np.arange(48).reshape(6, 8))
    mask = np.zeros((6, 8))
    mask[2:4, 3:6] = 1
    picture(tmp_path / "m.png", mask)
    return tmp_path


def test_a_mask_comes_with_its_image(folder):
    (folder / "images.csv").write_text("file,mask\na.png,m.png\n")
    (one,) = read(folder)
    assert isinstance(one, RawRecord)
    assert one.target.dtype == np.uint8
    assert one.target.shape == one.main.shape
    assert one.target.sum() == 6


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ("absent.png", "the file is not there"),
        ("../m.png", "the table names no file inside the data folder"),
        ("small.png", "the mask and the image differ in size"),
        ("other.png", "the mask has a pixel that is of no class of the study"),
        ("images.csv", "the file is not a PNG or JPEG image"),
    ],
)
def test_a_mask_that_cannot_be_used_sets_its_image_aside(folder, mask, reason):
    picture(folder / "small.png", np.zeros((6, 7)))
    picture(folder / "other.png", np.full((6, 8), 2))
    (folder / "images.csv").write_text(f"file,mask\na.png,{mask}\na.png,m.png\n")
    aside, other = read(folder)
    assert isinstance(aside, SetAside)
    assert aside.reason == reason
    assert isinstance(other, RawRecord)


def test_a_mask_is_resized_with_its_image(folder):
    (folder / "images.csv").write_text("file,mask\na.png,m.png\n")
    step = 'preprocessing.steps=[{name="resize",size=[12,16]}]'
    (one,) = read(folder, step)
    recipe = Recipe(study(step))
    (image,) = recipe.decode(one.main)
    mask = recipe.decode_target(one.target)
    assert mask.shape == image.shape[1:] == (12, 16)
    np.testing.assert_array_equal(mask, one.target.repeat(2, axis=0).repeat(2, axis=1))


def test_a_threshold_takes_the_largest_piece_with_its_holes():
    image = np.full((12, 12), -1000.0)
    image[2:9, 2:9] = 40.0
    image[5, 5] = -800.0  # air inside the body
    image[11, 0:4] = 100.0  # the table
    mask = largest_above(image, -300.0)
    expected = np.zeros((12, 12))
    expected[2:9, 2:9] = 1
    np.testing.assert_array_equal(mask, expected)
    assert not largest_above(np.full((4, 4), -1000.0), -300.0).any()
    with pytest.raises(UnreadableError, match="needs a grey image"):
        largest_above(np.zeros((4, 4, 3)), 0.0)


def test_points_are_shares_of_the_image(folder):
    (folder / "images.csv").write_text(
        "file,row,column,radius\na.png,3,4,2\na.png,,,\na.png,1.5;4.5,2;6,1;2\n"
    )
    one, none, two = (record.target for record in read(folder, text=POINTS))
    np.testing.assert_allclose(one[0], [3 / 6, 4 / 8, 2 / 8])
    assert np.isnan(one[1]).all()
    assert np.isnan(none).all()
    np.testing.assert_allclose(two, [[0.25, 0.25, 0.125], [0.75, 0.75, 0.25]])


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("3,,2", "a lesion without a place or a size"),
        ("3,4,x", "a lesion without a place or a size"),
        ("3;4,4,2", "a lesion without a place or a size"),
        ("1;2;3,1;2;3,1;1;1", "more lesions than data.points.most"),
        ("7,4,2", "a lesion lies outside of its image, or has no size"),
        ("3,-1,2", "a lesion lies outside of its image, or has no size"),
        ("3,4,0", "a lesion lies outside of its image, or has no size"),
    ],
)
def test_points_that_make_no_lesion_set_their_image_aside(folder, cells, reason):
    (folder / "images.csv").write_text(f"file,row,column,radius\na.png,{cells}\n")
    (aside,) = read(folder, text=POINTS)
    assert aside.reason == reason


def built(text, change):
    """The network of a changed study, if it can be built."""
    changed = study(change, text=text)
    return build_network(changed, Recipe(changed).output_shapes(((1, 32, 32),)))


@pytest.mark.parametrize(
    ("text", "change", "said"),
    [
        (STUDY, "data.mask={}", "exactly one of column, above"),
        (STUDY, 'data.label={column="x"}', "data.label: it has no effect"),
        (STUDY, 'study.classes=["lesion"]', "needs at least 2 classes"),
        (STUDY, 'model.name="cnn"', "cnn does not answer for each pixel"),
        (STUDY, 'training.class-weights="balanced"', "have no single class"),
        (POINTS, 'study.classes=["a","b"]', "has one class, what is looked for"),
        (POINTS, 'preprocessing.steps=[{name="augment",flip=true}]', "takes noise only"),
        (STUDY, 'preprocessing.steps=[{name="histogram",low=0,high=1,bins=4}]', "no pixels"),
        (STUDY, SEVERAL.replace("WHAT", 'mask={column="m"}'), "tells of one picture"),
        (POINTS, SEVERAL.replace("WHAT", 'points={row="r",column="c",radius="s"}'), "tells of one"),
    ],
)
def test_what_does_not_go_together_is_refused(text, change, said):
    with pytest.raises(StudyError, match=said):
        built(text, change)
