"""The two tables are of the standard, agree with one another, and say what they seem to say."""

import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword

from wardround_client.deidentification.tables import (
    Action,
    action,
    kept,
    known_codes,
    profile,
)

OF_KEPT = {
    "numbers": {"US", "SS", "UL", "SL", "FL", "FD", "IS", "DS", "AT"},
    "classes": {"UI"},
    "dates": {"DA", "DT"},
    "emptied": {"LO"},
    "tables": {"OW"},
    "sequences": {"SQ"},
    "codes": {"SQ"},
    "terms": {"CS", "LO", "SH"},
}


@pytest.mark.parametrize(("name", "representations"), OF_KEPT.items())
def test_every_attribute_that_may_stay_is_of_the_standard_and_of_its_kind(name, representations):
    for keyword in getattr(kept(), name):
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        assert set(dictionary_VR(tag).split(" or ")) & representations, keyword


def test_no_attribute_stands_in_two_lists():
    keywords = [keyword for name in OF_KEPT for keyword in getattr(kept(), name)]
    assert len(keywords) == len(set(keywords))


def test_nothing_that_the_profile_treats_is_kept_as_it_is():
    """Dates are shifted (option 113107), and references only have their UIDs replaced ("U*")."""
    treated = {
        keyword
        for name in OF_KEPT
        for keyword in getattr(kept(), name)
        if action(tag_for_keyword(keyword) >> 16, tag_for_keyword(keyword) & 0xFFFF) is not None
    }
    assert treated - kept().dates == {"ReferencedImageSequence", "SourceImageSequence"}


def test_the_profile_is_whole():
    assert len(profile()) == 652
    assert {part for choice in profile().values() for part in choice.split("/")} == {
        *("X", "Z", "D", "U", "U*")
    }


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        (0x00080018, Action.UID),  # SOP Instance UID: U
        (0x0020000D, Action.UID),  # Study Instance UID: U
        (0x00100010, Action.EMPTY),  # Patient's Name: Z
        (0x00100020, Action.DUMMY),  # Patient ID: Z/D
        (0x00080050, Action.EMPTY),  # Accession Number: Z
        (0x00081030, Action.REMOVE),  # Study Description: X
        (0x00101010, Action.REMOVE),  # Patient's Age: X
        (0x00080080, Action.DUMMY),  # Institution Name: X/Z/D
        (0x00080022, Action.EMPTY),  # Acquisition Date: X/Z
        (0x00081140, Action.UID),  # Referenced Image Sequence: X/Z/U*
        (0x60023000, Action.REMOVE),  # Overlay Data
        (0x60040010, Action.REMOVE),  # Overlay Rows, of no use without
        (0x50FE1234, Action.REMOVE),  # any of a curve
        (0xFFFCFFFC, Action.REMOVE),  # Data Set Trailing Padding
        (0x00280010, None),  # Rows
    ],
)
def test_what_the_profile_asks_for(tag, expected):
    assert action(tag >> 16, tag & 0xFFFF) is expected


def test_codes_are_those_of_the_standard():
    groups = {group for groups in kept().codes.values() for group in groups}
    assert all(len(known_codes(group)) > 5 for group in groups)
    assert known_codes("cid4014")["SCT", "399162004"] == "cranio-caudal"


def test_kinds_of_images_that_need_no_statement_are_cross_sections():
    assert not kept().quiet & kept().others
    assert "1.2.840.10008.5.1.4.1.1.2" in kept().quiet  # CT
    assert "1.2.840.10008.5.1.4.1.1.7" in kept().others  # secondary capture
    assert "1.2.840.10008.5.1.4.1.1.104.1" not in kept().quiet | kept().others  # PDF
