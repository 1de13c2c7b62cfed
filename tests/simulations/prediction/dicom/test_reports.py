"""DICOM answers: read back, they say what the model said, of that image and of that patient."""

import json
import stat
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from dicom_images import content, image

hd = pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")

from wardround_shared.errors import (  # noqa: E402
    RunError,
    RunFolderError,
    UnreadableError,
    UnsupportedError,
)
from wardround_shared.study import NOT_PRIVATE, load_study  # noqa: E402
from wardround_simulations import options  # noqa: E402
from wardround_simulations.prediction.areas import AreaReader  # noqa: E402
from wardround_simulations.prediction.attachments import NewFolder  # noqa: E402
from wardround_simulations.prediction.dicom.reports import Reports  # noqa: E402
from wardround_simulations.prediction.figures import Figures  # noqa: E402
from wardround_simulations.prediction.marks import Mark, Marks  # noqa: E402
from wardround_simulations.prediction.prediction import Prediction  # noqa: E402

GEOMETRY = {
    "ImagePositionPatient": [-10.0, 20.0, 30.0],
    "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    "PixelSpacing": [0.5, 0.25],
    "SliceThickness": 2.0,
    "FrameOfReferenceUID": "1.2.3.9",
}
PATIENT = {
    "PatientID": "4711",
    "PatientName": "Quist^Ingeborg",
    "PatientBirthDate": "19500102",
    "PatientSex": "F",
}
# A frame for each segment, as the image has three rows and four columns.
MASK = np.array([[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=np.uint8)


def model_of(name, *, changes=(), **about):
    """What is asked of a `Predictor`, without training one."""
    study = load_study(options.find_study(name), ["privacy.mechanism=none", *changes])
    about = {
        "run": "/home/quist/runs/seven",
        "calibration": "a curve",
        "compared_with_training_data": True,
    } | about
    return SimpleNamespace(study=study, about=about, not_private=NOT_PRIVATE)


def written(tmp_path, **attributes):
    path = tmp_path / "quist-ingeborg.dcm"
    given = {**GEOMETRY, **PATIENT, **attributes}
    made = image(**{name: value for name, value in given.items() if value is not None})
    for name, value in given.items():
        if value is None and name in made:
            del made[name]
    path.write_bytes(content(made))
    return path


def prediction(path, *, values=(), part="", warnings=()):
    return Prediction(
        path=path,
        input=f"{path}{part}",
        values=np.asarray(values),
        warnings=warnings,
        size=(3, 4),
    )


def reported(tmp_path, model, one, answer):
    files = Reports(model, NewFolder(tmp_path / "out", "--dicom-out")).write(one, answer)
    return [pydicom.dcmread(file) for file in files]


def texts(report):
    return [
        item.TextValue
        for item in report.ContentSequence
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeMeaning == "Comment"
    ]


def numbers(group):
    return {one.name.meaning: one.value for one in group.get_measurements()}


class TestFigures:
    @pytest.fixture
    def source(self, tmp_path):
        return written(tmp_path)

    @pytest.fixture
    def report(self, source, tmp_path):
        one = prediction(source, warnings=("the image has next to no contrast",))
        (report,) = reported(tmp_path, model_of("ct-contrast"), one, self.answer())
        return report

    def answer(self):
        study = load_study(options.find_study("ct-contrast"))
        names = study.study.classes
        return Figures(
            shown=dict(zip(names, (0.25, 0.75), strict=True)),
            calibrated=dict(zip(names, (0.4, 0.6), strict=True)),
            answer=names[1],
        )

    def test_the_figures_are_there_with_the_class(self, report):
        read = hd.sr.ComprehensiveSR.from_dataset(report)
        (group,) = read.content.get_image_measurement_groups()
        first, second = self.answer().shown
        assert numbers(group) == {
            f"{first}, by the model": 0.25,
            f"{second}, by the model": 0.75,
            f"{first}, calibrated probability": 0.4,
            f"{second}, calibrated probability": 0.6,
        }
        assert group.finding_type.meaning == second
        assert group.finding_type.scheme_designator == "99WARDROUND"

    def test_it_refers_to_the_image_and_has_its_patient_and_study(self, report, source):
        original = pydicom.dcmread(source)
        for name in (*PATIENT, "StudyInstanceUID", "StudyDate"):
            assert report[name].value == original[name].value
        (study,) = report.CurrentRequestedProcedureEvidenceSequence
        (series,) = study.ReferencedSeriesSequence
        (image,) = series.ReferencedSOPSequence
        assert study.StudyInstanceUID == original.StudyInstanceUID
        assert series.SeriesInstanceUID == original.SeriesInstanceUID
        assert image.ReferencedSOPInstanceUID == original.SOPInstanceUID
        read = hd.sr.ComprehensiveSR.from_dataset(report)
        (group,) = read.content.get_image_measurement_groups()
        (image,) = group.source_images
        assert image.referenced_sop_instance_uid == original.SOPInstanceUID
        assert report.SOPInstanceUID != original.SOPInstanceUID
        assert report.SeriesInstanceUID != original.SeriesInstanceUID

    def test_it_says_which_model_answers_what_for_and_what_to_mind(self, report):
        said = texts(report)
        assert "not a medical device" in said[0]
        assert said[1].endswith("unlike the training data: the image has next to no contrast.")
        assert said[2] == f"Privacy: {NOT_PRIVATE}."
        assert said[3] == "Calibration: a curve."
        study = load_study(options.find_study("ct-contrast"), ["privacy.mechanism=none"])
        whole = str(report)
        for text in (study.study_id, "ct-contrast", "run seven"):
            assert text in whole
        assert report.ContentQualification == "RESEARCH"
        assert report.VerificationFlag == "UNVERIFIED"

    def test_no_path_of_this_machine_is_in_it(self, report):
        assert "quist-ingeborg" not in str(report)
        assert "/home" not in str(report)

    @pytest.mark.parametrize("sets", [None, "ISO_IR 100", ["", "ISO 2022 IR 87"]])
    @pytest.mark.parametrize(
        ("name", "meant"),
        [("肺炎", "肺炎"), ("übermäßig", "übermäßig"), ("left\\right", "left/right")],
    )
    def test_a_class_keeps_its_name_whatever_the_image_is_written_in(
        self, tmp_path, sets, name, meant
    ):
        source = written(tmp_path, SpecificCharacterSet=sets)
        group = self.group_of(tmp_path, source, name)
        assert group.finding_type.meaning == meant
        assert [*numbers(group)] == ["no, by the model", f"{meant}, by the model"]

    def test_what_is_said_of_a_class_with_a_long_name_is_not_cut_off(self, tmp_path, source):
        group = self.group_of(tmp_path, source, "x" * 80)
        assert group.finding_type.meaning == "x" * 64
        assert [*numbers(group)][1] == "x" * 50 + ", by the model"

    def group_of(self, tmp_path, source, name):
        """What is read back of a report on the classes "no" and `name`."""
        classes = f"study.classes={json.dumps(['no', name])}"
        values = f"data.label.values={{no=['False'],{json.dumps(name)}=['True']}}"
        model = model_of("ct-contrast", changes=[classes, values])
        answer = Figures(shown={"no": 0.25, name: 0.75}, calibrated=None, answer=name)
        (report,) = reported(tmp_path, model, prediction(source), answer)
        assert report.SpecificCharacterSet == "ISO_IR 192"
        (group,) = hd.sr.ComprehensiveSR.from_dataset(report).content.get_image_measurement_groups()
        return group

    def test_codes_of_another_study_are_another_version_of_the_scheme(self, report):
        read = hd.sr.ComprehensiveSR.from_dataset(report)
        (group,) = read.content.get_image_measurement_groups()
        mine = model_of("ct-contrast").study.study_id[:16]
        assert group.finding_type.scheme_version == mine
        assert [one.CodingSchemeVersion for one in report.CodingSchemeIdentificationSequence] == [
            mine
        ]
        assert mine != model_of("phantom").study.study_id[:16]


class TestSegmentation:
    @pytest.fixture
    def source(self, tmp_path):
        return written(tmp_path)

    def objects(self, tmp_path, source, mask=MASK):
        model = model_of("ct-body")
        values = np.stack([mask == 0, mask == 1]).astype(float)
        one = prediction(source, values=values)
        return reported(tmp_path, model, one, AreaReader(model.study).read(one))

    def test_the_segment_lies_on_the_pixels_of_the_image(self, source, tmp_path):
        segments, _ = self.objects(tmp_path, source)
        read = hd.seg.Segmentation.from_dataset(segments)
        original = pydicom.dcmread(source)
        pixels = read.get_pixels_by_source_instance([original.SOPInstanceUID])
        assert np.array_equal(pixels[0, :, :, 0], MASK)
        geometry = read.get_volume_geometry()
        assert geometry.position == tuple(GEOMETRY["ImagePositionPatient"])
        assert geometry.pixel_spacing == tuple(GEOMETRY["PixelSpacing"])
        assert segments.FrameOfReferenceUID == GEOMETRY["FrameOfReferenceUID"]
        (segment,) = segments.SegmentSequence
        assert segment.SegmentLabel == "body"
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segments.PatientID == "4711"
        assert segments.StudyInstanceUID == original.StudyInstanceUID

    def test_the_report_refers_to_the_segment_and_counts_it(self, source, tmp_path):
        segments, report = self.objects(tmp_path, source)
        read = hd.sr.ComprehensiveSR.from_dataset(report)
        (group,) = read.content.get_planar_roi_measurement_groups()
        frame = group.referenced_segmentation_frame
        assert frame.referenced_sop_instance_uid == segments.SOPInstanceUID
        assert group.finding_type.meaning == "body"
        assert numbers(group) == {
            "Pixels of the original image": 3,
            "Share of the original image": 0.25,
        }
        (study,) = report.CurrentRequestedProcedureEvidenceSequence
        referenced = {
            image.ReferencedSOPInstanceUID
            for series in study.ReferencedSeriesSequence
            for image in series.ReferencedSOPSequence
        }
        assert referenced == {segments.SOPInstanceUID, pydicom.dcmread(source).SOPInstanceUID}

    def test_where_nothing_is_found_an_empty_segment_says_so(self, source, tmp_path):
        segments, _ = self.objects(tmp_path, source, mask=np.zeros_like(MASK))
        assert segments.NumberOfFrames == 1
        assert not segments.pixel_array.any()

    def test_each_class_has_its_segment_also_where_it_is_nowhere(self, source, tmp_path):
        model = model_of(
            "phantom-segmentation", changes=['study.classes=["around", "scar", "lesion"]']
        )
        values = np.stack([MASK == 0, MASK == 9, MASK == 1]).astype(float)
        one = prediction(source, values=values)
        answer = AreaReader(model.study).read(one)
        segments, report = reported(tmp_path, model, one, answer)
        read = hd.seg.Segmentation.from_dataset(segments)
        assert [one.SegmentLabel for one in segments.SegmentSequence] == ["scar", "lesion"]
        pixels = read.get_pixels_by_source_instance(["1.2.3.1"])
        assert segments.NumberOfFrames == 2
        assert not pixels[0, :, :, 0].any()
        assert np.array_equal(pixels[0, :, :, 1], MASK)
        groups = hd.sr.ComprehensiveSR.from_dataset(
            report
        ).content.get_planar_roi_measurement_groups()
        for number, group in enumerate(groups, start=1):
            frame = group.referenced_segmentation_frame
            assert frame.referenced_segment_numbers == [number]
            assert frame.referenced_frame_numbers == [number]
        assert [numbers(group)["Pixels of the original image"] for group in groups] == [0, 3]

    def test_an_image_without_a_place_in_the_patient_has_one_too(self, tmp_path):
        """A radiograph, say: then the segment lies on the pixels alone."""
        source = written(
            tmp_path,
            **dict.fromkeys(GEOMETRY),
            SOPClassUID=pydicom.uid.SecondaryCaptureImageStorage,
        )
        segments, _ = self.objects(tmp_path, source)
        read = hd.seg.Segmentation.from_dataset(segments)
        pixels = read.get_pixels_by_source_instance([pydicom.dcmread(source).SOPInstanceUID])
        assert np.array_equal(pixels[0, :, :, 0], MASK)

    def test_a_segment_keeps_the_name_of_its_class(self, source, tmp_path):
        model = model_of("ct-body", changes=['study.classes=["around", "肺\\\\炎"]'])
        one = prediction(source, values=np.stack([MASK == 0, MASK == 1]).astype(float))
        segments, _ = reported(tmp_path, model, one, AreaReader(model.study).read(one))
        (segment,) = segments.SegmentSequence
        assert segments.SpecificCharacterSet == "ISO_IR 192"
        assert segment.SegmentLabel == "肺/炎"
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "肺/炎"

    @pytest.mark.parametrize(
        "attributes", [{}, {"SpacingBetweenSlices": 1.0}, {"SpacingBetweenSlices": ""}]
    )
    @pytest.mark.parametrize("thickness", [{}, {"SliceThickness": None}, {"SliceThickness": ""}])
    def test_no_size_is_told_that_the_image_does_not_have(self, tmp_path, attributes, thickness):
        source = written(tmp_path, **attributes, **thickness)
        segments, _ = self.objects(tmp_path, source)
        (measures,) = segments.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
        original = pydicom.dcmread(source)
        for name in ("SliceThickness", "SpacingBetweenSlices", "PixelSpacing"):
            assert measures.get(name) == (original.get(name) or None), name
            assert name not in measures or measures[name].value is not None
        assert np.array_equal(segments.pixel_array, MASK)

    @pytest.mark.parametrize(
        "name", ["PixelSpacing", "FrameOfReferenceUID", "ImageOrientationPatient"]
    )
    @pytest.mark.parametrize("nothing", [None, ""])
    def test_what_a_segment_needs_and_the_image_lacks_is_named(self, tmp_path, name, nothing):
        source = written(tmp_path, **{name: nothing})
        with pytest.raises(UnreadableError, match=f"as a DICOM segmentation: .* has no {name}$"):
            self.objects(tmp_path, source)

    @pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, which would not write it
    def test_an_image_that_needs_no_place_is_not_blamed_for_it(self, tmp_path):
        source = written(tmp_path, **dict.fromkeys(GEOMETRY), PatientSex="QUIST")
        with pytest.raises(UnreadableError, match="lacks something or is damaged"):
            self.objects(tmp_path, source)

    def test_two_of_one_study_are_in_one_series(self, source, tmp_path):
        model = model_of("ct-body")
        reports = Reports(model, NewFolder(tmp_path / "out", "--dicom-out"))
        one = prediction(source, values=np.stack([MASK == 0, MASK == 1]).astype(float))
        answer = AreaReader(model.study).read(one)
        made = [[pydicom.dcmread(f) for f in reports.write(one, answer)] for _ in range(2)]
        for first, second in zip(*made, strict=True):
            assert first.SeriesInstanceUID == second.SeriesInstanceUID
            assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)
            assert first.SOPInstanceUID != second.SOPInstanceUID
        assert made[0][0].SeriesInstanceUID != made[0][1].SeriesInstanceUID


class TestMarks:
    def reported(self, tmp_path, *marks):
        answer = Marks(name="lesion", marks=marks, size=(3, 4))
        one = prediction(written(tmp_path))
        (report,) = reported(tmp_path, model_of("phantom-localisation"), one, answer)
        return hd.sr.ComprehensiveSR.from_dataset(report).content

    def test_a_point_is_column_before_row_in_the_image(self, tmp_path):
        mark = Mark(row=0.5, column=3.25, score=0.75, false_marks=0.5, found=0.875)
        (group,) = self.reported(tmp_path, mark).get_planar_roi_measurement_groups()
        assert group.roi.graphic_type == hd.sr.GraphicTypeValues.POINT
        assert group.roi.value.tolist() == [[3.25, 0.5]]
        assert group.roi.ContentSequence[0].referenced_sop_instance_uid == "1.2.3.1"
        assert sorted(numbers(group).values()) == [0.5, 0.75, 0.875]

    def test_an_image_without_a_mark_says_so(self, tmp_path):
        content = self.reported(tmp_path)
        assert not content.get_planar_roi_measurement_groups()
        (group,) = content.get_image_measurement_groups()
        assert group.finding_type.meaning == "No lesion marked"


class TestFrames:
    @pytest.fixture
    def source(self, tmp_path):
        return written(tmp_path, NumberOfFrames=3, PixelData=bytes(3 * 24))

    def test_the_frame_is_named(self, source, tmp_path):
        names = model_of("ct-contrast").study.study.classes
        answer = Figures(shown=dict.fromkeys(names, 0.5), calibrated=None, answer=names[0])
        one = prediction(source, part="#2")
        (report,) = reported(tmp_path, model_of("ct-contrast"), one, answer)
        read = hd.sr.ComprehensiveSR.from_dataset(report)
        (group,) = read.content.get_image_measurement_groups()
        assert group.source_images[0].referenced_frame_numbers == [2]
        assert group.tracking_identifier == "ct-contrast#2: whole"

    def test_a_segmentation_of_one_frame_is_refused_and_nothing_is_written(self, source, tmp_path):
        model = model_of("ct-body")
        one = prediction(source, part="#2", values=np.stack([MASK == 0, MASK == 1]))
        with pytest.raises(UnreadableError, match="several frames"):
            reported(tmp_path, model, one, AreaReader(model.study).read(one))
        assert not (tmp_path / "out").exists()


def test_a_recording_is_referred_to_as_a_whole(tmp_path):
    from pydicom.data import get_testdata_file
    from trained import RECORDS, TAIL

    from wardround_shared.study import parse_study

    text = RECORDS.replace('"wfdb"', '"dicom-waveform"').replace("record =", "file =")
    model = model_of("ct-contrast")
    model.study = parse_study(text + TAIL, origin="study.toml")
    source = Path(get_testdata_file("waveform_ecg.dcm"))
    answer = Figures(shown={"MI": 0.25, "CD": 0.5}, calibrated=None, answer=None)
    one = Prediction(path=source, input=str(source), values=np.zeros(2), warnings=())
    (report,) = reported(tmp_path, model, one, answer)
    original = pydicom.dcmread(source, stop_before_pixels=True)
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (reference,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == original.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == original.SOPClassUID
    read = hd.sr.ComprehensiveSR.from_dataset(report)
    (group,) = read.content.get_image_measurement_groups()
    assert numbers(group) == {"MI, by the model": 0.25, "CD, by the model": 0.5}
    assert group.finding_type is None


class TestRefusals:
    def write(self, tmp_path, source):
        names = model_of("ct-contrast").study.study.classes
        answer = Figures(shown=dict.fromkeys(names, 0.5), calibrated=None, answer=names[0])
        return reported(tmp_path, model_of("ct-contrast"), prediction(source), answer)

    def test_a_file_that_nothing_can_refer_to_is_one_sentence(self, tmp_path):
        source = written(tmp_path, StudyInstanceUID=None)
        with pytest.raises(UnreadableError, match="it has no StudyInstanceUID"):
            self.write(tmp_path, source)

    def test_what_may_be_empty_may_be_lacking(self, tmp_path):
        source = written(tmp_path, PatientName=None, StudyDate=None, PatientSex=None)
        (report,) = self.write(tmp_path, source)
        assert not report.PatientName

    @pytest.mark.parametrize(
        ("name", "value"), [("PatientSex", "QUIST"), ("SOPInstanceUID", "9.Quist")]
    )
    def test_nothing_is_heard_of_a_damaged_header(self, tmp_path, name, value, caplog):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydicom, which would not write such a file either
            source = written(tmp_path, **{name: value})
        heard = ""
        try:
            self.write(tmp_path, source)
        except UnreadableError as error:
            heard = str(error)
        assert "quist" not in (heard + caplog.text).lower()

    def test_other_inputs_than_dicom_are_refused(self, tmp_path):
        folder = NewFolder(tmp_path / "out", "--dicom-out")
        with pytest.raises(RunError, match="no DICOM files, and there is no patient"):
            Reports(model_of("heart-disease"), folder)

    def test_without_the_library_the_extra_is_named(self, tmp_path, monkeypatch):
        module = "wardround_simulations.prediction.dicom.identity"
        monkeypatch.setitem(sys.modules, module, None)
        folder = NewFolder(tmp_path / "out", "--dicom-out")
        with pytest.raises(UnsupportedError, match=r"install wardround\[dicom\]"):
            Reports(model_of("ct-contrast"), folder)

    def test_only_who_asked_may_read_what_has_the_name_of_a_patient(self, tmp_path):
        self.write(tmp_path, written(tmp_path))
        (file,) = (tmp_path / "out").iterdir()
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_a_file_is_never_open_to_others_while_it_is_written(self, tmp_path, monkeypatch):
        modes = []
        save_as = hd.sr.ComprehensiveSR.save_as

        def save(self, file, **options):
            save_as(self, file, **options)
            modes.append(stat.S_IMODE(file.stat().st_mode))

        monkeypatch.setattr(hd.sr.ComprehensiveSR, "save_as", save)
        self.write(tmp_path, written(tmp_path))
        assert modes == [0o600]

    def test_a_full_disk_leaves_no_half_of_a_file(self, tmp_path, monkeypatch):
        def fail(self, file, **options):
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(hd.sr.ComprehensiveSR, "save_as", fail)
        with pytest.raises(RunFolderError, match="No space left"):
            self.write(tmp_path, written(tmp_path))
        assert [*(tmp_path / "out").iterdir()] == []

    def test_nothing_is_written_into_a_folder_that_has_something(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "kept").touch()
        with pytest.raises(RunFolderError, match="not empty; name another with --dicom-out"):
            NewFolder(tmp_path / "out", "--dicom-out")


def test_a_real_slice_keeps_its_place_in_the_patient(shared_data, tmp_path):
    folder = shared_data / "ct-tcga-dicom" / "dicom_dir"
    if not folder.is_dir():
        pytest.skip("ct-tcga-dicom is not there")
    source = min(folder.iterdir())
    original = pydicom.dcmread(source)
    mask = np.zeros((original.Rows, original.Columns), dtype=np.uint8)
    mask[100:200, 300:310] = 1
    model = model_of("ct-body")
    one = Prediction(
        path=source,
        input=str(source),
        values=np.stack([mask == 0, mask == 1]).astype(float),
        warnings=(),
        size=mask.shape,
    )
    segments, report = reported(tmp_path, model, one, AreaReader(model.study).read(one))
    read = hd.seg.Segmentation.from_dataset(segments)
    pixels = read.get_pixels_by_source_instance([original.SOPInstanceUID])
    assert np.array_equal(pixels[0, :, :, 0], mask)
    geometry = read.get_volume_geometry()
    assert geometry.position == pytest.approx(original.ImagePositionPatient)
    assert geometry.pixel_spacing == pytest.approx(original.PixelSpacing)
    assert geometry.direction_cosines == pytest.approx(original.ImageOrientationPatient)
    assert report.PatientID == segments.PatientID == original.PatientID
