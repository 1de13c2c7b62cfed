"""Masks and marks: what `evaluate` measures, on the pixels of the file and not of the recipe."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from predictions import answers, predicted, require_same
from trained import trained
from typer.testing import CliRunner

from wardround_shared.errors import UnsupportedError
from wardround_shared.preprocessing.image import resize_classes
from wardround_shared.study import load_study
from wardround_shared.tasks import Localisation
from wardround_simulations import cli, options
from wardround_simulations.evaluation import open_run
from wardround_simulations.prediction.areas import AreaReader, mask_of
from wardround_simulations.prediction.marks import MarkReader
from wardround_simulations.prediction.prediction import Prediction
from wardround_simulations.prediction.readers import reader_of
from wardround_simulations.virtual_sites import phantom_folder

CHANGES = (
    "privacy.mechanism=none",
    "data.sites=2",
    "aggregation.minimum-sites=2",
    "data.patients-per-site=8",
    "training.rounds=1",
    "training.local-epochs=1",
    "model.width=4",
    "aggregation.secure=false",
    # Neither the grid of the file nor one of the same shape.
    'preprocessing.steps=[{name="resize", size=[32, 48]}, {name="normalise"}]',
)


def prediction(values, size, **more):
    path = more.pop("path", None)
    return Prediction(
        **{"path": path, "input": str(path), "values": values, "warnings": (), "size": size} | more
    )


def ask(*arguments):
    return CliRunner().invoke(cli.app, ["predict", *map(str, arguments)], catch_exceptions=False)


def rows_of(folder, site):
    with (folder / "labels.csv").open() as table:
        return [row for row in csv.DictReader(table) if row["site"] == site]


def shares_of(mask, classes):
    """Probabilities [K, h, w] of which the highest is that of the mask's class."""
    return np.stack([(mask == k) * 0.5 + 0.1 for k in range(classes)])


class TestMask:
    def test_a_pixel_takes_the_class_of_the_pixel_that_its_centre_lies_in(self):
        small = np.array([[0, 1], [2, 0]], dtype=np.uint8)
        mask = mask_of(prediction(shares_of(small, 3), (4, 5)))
        # The centre of the third column of five lies in the right half.
        assert mask.tolist() == [[0, 0, 1, 1, 1]] * 2 + [[2, 2, 0, 0, 0]] * 2

    @given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 40), st.integers(1, 40))
    def test_no_pixel_is_further_off_than_half_a_pixel_of_the_recipe(self, h, w, height, width):
        rows, columns = np.indices((h, w))
        for place, made, original in ((rows, h, height), (columns, w, width)):
            mask = mask_of(prediction(shares_of(place, made), (height, width)))
            along = mask[:, 0] if place is rows else mask[0]
            centres = (np.arange(original) + 0.5) / original
            assert (np.abs((along + 0.5) / made - centres) <= 0.5 / made + 1e-9).all()

    def test_what_is_enlarged_and_made_small_again_is_the_same(self):
        small = np.random.default_rng(0).integers(0, 3, (8, 6)).astype(np.uint8)
        mask = mask_of(prediction(shares_of(small, 3), (24, 30)))
        assert np.array_equal(resize_classes(mask, (8, 6)), small)

    def test_areas_are_counted_in_pixels_of_the_file(self):
        study = load_study(options.find_study("phantom-segmentation"))
        small = np.array([[0, 1], [0, 0]], dtype=np.uint8)
        answer = AreaReader(study).read(prediction(shares_of(small, 2), (6, 10)))
        assert answer.content() == {
            "size": [6, 10],
            "areas": {"lesion": {"pixels": 15, "share": 0.25}},
        }
        assert answer.lines() == [{"lesion, pixels": 15, "lesion, share": 0.25}]


class TestMarks:
    study = load_study(options.find_study("phantom-localisation"))
    task = Localisation(1)

    def counted(self):
        """Four images with a lesion: one found at a high score, three false marks at lower ones."""
        lesion = np.array([[[0.5, 0.5, 0.1]]] * 4, dtype=np.float32)
        marks = np.full((4, 2, 3), -np.inf)
        marks[:, 0] = [[0.5, 0.5, 3.0], [0.1, 0.1, 1.0], [0.1, 0.1, 0.0], [0.1, 0.1, -3.0]]
        marks[3, 1] = [0.1, 0.1, -9.0]
        marks[2, 1] = [0.1, 0.1, -8.0]
        return self.task.count(marks, lesion)

    def test_places_are_in_pixels_of_the_file_and_scores_have_their_false_marks(self):
        reader = MarkReader(self.study, self.task, self.counted().tolist())
        values = np.array([[0.25, 0.75, 2.0], [0.5, 0.5, 0.5], [0.9, 0.9, -np.inf]])
        first, second = reader.read(prediction(values, (40, 80))).marks
        assert (first.row, first.column) == (10.0, 60.0)
        assert first.score == pytest.approx(1 / (1 + np.exp(-2.0)))
        assert (first.false_marks, first.found) == (0.0, 0.25)
        assert (second.row, second.column) == (20.0, 40.0)
        assert (second.false_marks, second.found) == (0.25, 0.25)
        # Marks of this very score count too.
        same = reader.read(prediction(np.array([[0.5, 0.5, 1.0]]), (40, 80))).marks[0]
        assert same.false_marks == 0.25

    def test_a_mark_that_would_be_one_of_many_false_ones_is_left_out(self):
        reader = MarkReader(self.study, self.task, self.counted().tolist())
        values = np.array([[0.5, 0.5, -8.5], [0.2, 0.2, -10.0]])
        (only,) = reader.read(prediction(values, (40, 80))).marks
        assert only.false_marks == 1.0
        none = reader.read(prediction(values[1:], (40, 80)))
        assert none.marks == ()
        assert none.lines() == [{"answer": "no lesion marked"}]

    def test_without_counts_all_peaks_are_told_and_nothing_is_claimed(self):
        reader = MarkReader(self.study, self.task, [])
        values = np.array([[0.5, 0.5, -9.0], [0.2, 0.2, -np.inf]])
        (only,) = reader.read(prediction(values, (40, 80))).marks
        assert only.false_marks is only.found is None
        assert "all peaks are told" in reader.calibration


def test_a_model_that_makes_images_is_not_asked_about_one():
    study = load_study(options.find_study("pneumonia-images"))
    with pytest.raises(UnsupportedError, match="makes images and says nothing of one"):
        reader_of(study, [])


@pytest.fixture(scope="module")
def segmenting(tmp_path_factory):
    place = tmp_path_factory.mktemp("segmenting")
    return trained(options.find_study("phantom-segmentation").read_text(), None, place, *CHANGES)


@pytest.fixture(scope="module")
def phantoms(segmenting):
    data = open_run(segmenting).study.data
    return phantom_folder(data, cache=segmenting.parent / "cache", seed=4)


def test_pixels_are_predicted_as_evaluate_does(segmenting, phantoms):
    from PIL import Image

    rows = rows_of(phantoms, "site-2")
    values = predicted(segmenting, [phantoms / row["file"] for row in rows])
    masks = [np.asarray(Image.open(phantoms / row["mask"])) for row in rows]
    targets = [resize_classes(mask, (32, 48)) for mask in masks]
    cache = segmenting.parent / "cache"
    require_same(segmenting, phantoms, cache, "site-2", values, targets)


def test_masks_are_written_at_the_size_of_the_file_and_hold_what_is_told(
    segmenting, phantoms, tmp_path
):
    from PIL import Image

    files = [phantoms / row["file"] for row in rows_of(phantoms, "site-1")[:2]]
    out = tmp_path / "masks"
    done = ask(segmenting, *files, tmp_path / "no.dcm", "--masks", out, "--json")
    assert done.exit_code == 1
    predictions = json.loads(done.stdout)["predictions"]
    assert sorted(path.name for path in out.iterdir()) == ["001-chest.png", "002-chest.png"]
    for one, expected in zip(predictions, answers(segmenting, files), strict=True):
        (file,) = one["mask"]
        with Image.open(file) as image:
            assert image.mode == "P"  # seen in colour, read as numbers
            pixels = np.asarray(image)
        assert pixels.shape == (64, 64)
        assert np.array_equal(pixels, mask_of(expected))
        assert one["areas"]["lesion"]["pixels"] == int((pixels == 1).sum())
    modes = {path.stat().st_mode & 0o777 for path in out.iterdir()}
    assert (out.stat().st_mode & 0o777, modes) == (0o700, {0o600})
    again = ask(segmenting, files[0], "--masks", out)
    assert again.exit_code == 1
    assert (
        again.stderr == f"error: {out}: this is there and not empty; name another with --masks.\n"
    )


def test_points_are_predicted_as_evaluate_does(tmp_path):
    study = options.find_study("phantom-localisation").read_text()
    run = trained(study, None, tmp_path, *CHANGES)
    folder = phantom_folder(open_run(run).study.data, cache=tmp_path / "cache", seed=4)
    rows = rows_of(folder, "site-2")
    values = predicted(run, [folder / row["file"] for row in rows])
    places = [
        [float(row[f"lesion_{name}"] or "nan") / 64 for name in ("row", "column", "radius")]
        for row in rows
    ]
    targets = np.array(places, dtype=np.float32)[:, None]
    require_same(run, folder, tmp_path / "cache", "site-2", values, targets)
    refused = ask(run, folder / rows[0]["file"], "--masks", tmp_path / "masks")
    assert refused.exit_code == 1
    assert refused.stderr == (
        "error: --masks: the task of this run is image-localisation, which answers no masks; "
        "leave it out.\n"
    )


def test_what_cannot_be_used_is_told_and_the_rest_has_its_masks_and_dicom_objects(
    segmenting, phantoms, tmp_path, monkeypatch
):
    import pydicom
    from pydicom.data import get_testdata_file
    from pydicom.pixels.decoders.base import Decoder
    from pydicom.uid import JPEGLSLossless

    hd = pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
    first, second = (phantoms / row["file"] for row in rows_of(phantoms, "site-1")[:2])
    coded = Path(get_testdata_file("MR_small_jpeg_ls_lossless.dcm"))
    available = property(lambda decoder: JPEGLSLossless != decoder.UID)
    monkeypatch.setattr(Decoder, "is_available", available)
    torn, nameless = tmp_path / "torn.dcm", tmp_path / "nameless.dcm"
    torn.write_bytes(first.read_bytes()[:-500])
    dataset = pydicom.dcmread(second)
    del dataset.StudyInstanceUID
    dataset.save_as(nameless)
    out = tmp_path / "dicom"
    done = ask(segmenting, first, torn, coded, nameless, "--dicom-out", out, "--json")
    assert done.exit_code == 1
    told = {line.split(": ")[1]: line.split(": ", 2)[2] for line in done.stderr.splitlines()}
    assert [*told] == [str(path) for path in (torn, coded, nameless)]
    assert "truncated or damaged" in told[str(torn)]
    assert told[str(coded)].startswith("there is no codec here for JPEG-LS Lossless")
    assert told[str(nameless)] == (
        "nothing can refer to the DICOM file: it has no StudyInstanceUID."
    )
    whole, without = json.loads(done.stdout)["predictions"]
    assert "dicom" not in without
    segments, report = whole["dicom"]
    assert sorted(str(path) for path in out.iterdir()) == [segments, report]
    read = hd.seg.segread(segments)
    source = pydicom.dcmread(first)
    pixels = read.get_pixels_by_source_instance([source.SOPInstanceUID])[0, :, :, 0]
    assert pixels.shape == (64, 64)
    assert int(pixels.sum()) == whole["areas"]["lesion"]["pixels"]
    assert hd.sr.srread(report).PatientID == source.PatientID
