"""Attribute by attribute: what stays, what is replaced alike everywhere, what is gone."""

import pytest
from dicom_images import image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from wardround_client.deidentification.attributes import Attributes, Outcome, code_item
from wardround_client.deidentification.project_key import ProjectKey

KEY = ProjectKey(project="lungs", secret=bytes(32))
PATIENT = next(str(n) for n in range(99_999) if KEY.days(str(n)) == 60)


def rebuilt(ds):
    return Attributes(KEY, patient=PATIENT).rebuilt(ds)


def item(**attributes):
    made = Dataset()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def test_a_reference_still_leads_to_the_instance_it_led_to():
    one, other = image(), image(SOPInstanceUID="1.2.3.9")
    other.ReferencedImageSequence = Sequence([
        item(ReferencedSOPClassUID=one.SOPClassUID, ReferencedSOPInstanceUID=one.SOPInstanceUID)
    ])  # fmt: skip
    (reference,) = rebuilt(other).ReferencedImageSequence
    assert reference.ReferencedSOPInstanceUID == rebuilt(one).SOPInstanceUID
    assert reference.ReferencedSOPClassUID == one.SOPClassUID
    assert rebuilt(one).StudyInstanceUID == rebuilt(other).StudyInstanceUID


def test_a_class_that_is_none_of_the_standard_is_emptied():
    made = rebuilt(image(SOPClassUID="1.2.276.0.4711"))
    assert not made.SOPClassUID


def test_dates_move_and_times_go():
    made = rebuilt(
        image(
            StudyDate="20240229",
            ContentDate="20240301",
            AcquisitionDateTime="20240229101500",
            StudyTime="101500",
            ContentTime="101501",
            SeriesTime="101502",
            AcquisitionTime="101503",
        )
    )
    assert (made.StudyDate, made.ContentDate) == ("20231231", "20240101")
    assert made.AcquisitionDateTime == "20231231"
    times = ("StudyTime", "ContentTime", "SeriesTime", "AcquisitionTime")
    assert not any(made.get(time) for time in times)


def test_the_nth_item_still_belongs_to_the_nth_frame():
    frames = [
        item(FrameContentSequence=Sequence([item(FrameComments="Quist")])),
        item(FrameContentSequence=Sequence([item(InStackPositionNumber=2)])),
    ]
    made = rebuilt(image(PerFrameFunctionalGroupsSequence=Sequence(frames)))
    groups = made.PerFrameFunctionalGroupsSequence
    assert [len(group) for group in groups] == [0, 1]
    assert groups[1].FrameContentSequence[0].InStackPositionNumber == 2


def test_a_code_of_the_standard_stays_in_the_words_of_the_standard():
    known = code_item("SCT", "399162004", "Quist liked this view")
    local = code_item("99QUIST", "399162004", "cranio-caudal")
    made = rebuilt(image(ViewCodeSequence=Sequence([known, local])))
    (left,) = made.ViewCodeSequence
    assert (left.CodeValue, left.CodeMeaning) == ("399162004", "cranio-caudal")
    assert "ViewCodeSequence" not in rebuilt(image(ViewCodeSequence=Sequence([local])))


def test_a_palette_stays_if_it_is_as_long_as_it_says():
    palette = {
        "RedPaletteColorLookupTableDescriptor": [4, 0, 16],
        "RedPaletteColorLookupTableData": bytes(8),
    }
    assert rebuilt(image(**palette)).RedPaletteColorLookupTableData == bytes(8)
    palette["RedPaletteColorLookupTableData"] += b"Quistgaard"
    assert not rebuilt(image(**palette)).RedPaletteColorLookupTableData


def test_a_pointer_to_a_tag_that_the_standard_does_not_have_is_emptied():
    assert rebuilt(image(FrameIncrementPointer=0x00181063)).FrameIncrementPointer == 0x00181063
    assert not rebuilt(image(FrameIncrementPointer=0x51756973)).FrameIncrementPointer


@pytest.mark.parametrize(
    ("tag", "vr", "value", "outcome"),
    [
        (0x00091001, "LO", "Quist", Outcome.REMOVED_PRIVATE),
        (0x00081030, "LO", "Quist", Outcome.REMOVED_BY_PROFILE),
        (0x00080050, "SH", "Quist", Outcome.EMPTIED),
        (0x00100010, "PN", "Quist", Outcome.REPLACED),
        (0x00080080, "LO", "Quist", Outcome.REPLACED),
        (0x00181002, "UI", "1.2.3", Outcome.REPLACED),
        (0x00081090, "LO", "Quist", Outcome.REMOVED_UNKNOWN),  # a model, which no table names
        (0x00FE0002, "UT", "Quist", Outcome.REMOVED_UNKNOWN),  # no attribute at all
        (0x00180050, "LO", "Quist", Outcome.REMOVED_UNKNOWN),  # of the wrong representation
        (0x00180050, "DS", "1.5", Outcome.KEPT),
        (0x00185101, "CS", "Quist".upper(), Outcome.EMPTIED),
        (0x00280300, "CS", "NO", Outcome.REMOVED_UNKNOWN),
        (0x00080005, "CS", "ISO_IR 100", Outcome.REMOVED_UNKNOWN),
    ],
)
def test_what_is_done_is_counted(tag, vr, value, outcome):
    ds = Dataset()
    ds.add_new(tag, vr, value)
    attributes = Attributes(KEY, patient=PATIENT)
    made = attributes.rebuilt(ds)
    assert attributes.outcomes == {outcome: 1}
    assert (tag in made) == (outcome in {Outcome.KEPT, Outcome.REPLACED, Outcome.EMPTIED})
    assert "Quist" not in str(made)


def test_pixels_below_the_top_are_an_icon_and_go():
    icon = Dataset()
    icon.add_new(0x7FE00010, "OB", b"Quist!")
    made = rebuilt(image(PixelMeasuresSequence=Sequence([icon])))
    assert "PixelMeasuresSequence" not in made


def test_the_old_data_set_is_only_read():
    ds = image(PatientComments="Quist")
    before = str(ds)
    rebuilt(ds)
    assert str(ds) == before
