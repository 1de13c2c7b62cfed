"""A word in every attribute that PS3.6 has, at the top and in every sequence: none is left.

The values are written as raw bytes under the representation of the dictionary, so that also those
are planted that a careful writer would refuse.
"""

import struct

import pytest
from dicom_images import content, image
from pydicom.datadict import DicomDictionary, RepeatersDictionary, keyword_for_tag
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from wardround_client.deidentification.deidentify import _new_file
from wardround_client.deidentification.project_key import ProjectKey
from wardround_client.deidentification.tables import kept

KEY = ProjectKey(project="lungs", secret=bytes(32))
LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
# Without the right values of these the file is no image, and refused.
NEEDED = frozenset(
    {
        *("SOPClassUID", "SOPInstanceUID", "PatientID", "Modality", "ImageType", "PixelData"),
        *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "ConversionType"),
        *("PlanarConfiguration", "BurnedInAnnotation", "DirectoryRecordSequence"),
        "SpecificCharacterSet",  # the parser needs it
    }
)
# Two bytes each, which hold no word; one of them is all that the standard allows.
SHORT = frozenset({"US", "SS"})


def tags():
    """Every tag outside file meta and command groups, one of each repeating group, and its VR."""
    found = {tag: entry[0] for tag, entry in DicomDictionary.items()}
    found |= {
        int(mask.replace("x", "0"), 16): entry[0] for mask, entry in RepeatersDictionary.items()
    }
    for tag, vr in sorted(found.items()):
        group = tag >> 16
        if 8 <= group < 0xFFFE and not group % 2 and keyword_for_tag(tag) not in NEEDED:
            yield tag, vr.split(" or ")[0] if vr != "NONE" else "UN"


def word(tag):
    """Eight letters that tell the tag."""
    return bytes(97 + (tag >> shift & 15) for shift in range(28, -4, -4))


def element(tag, vr, value):
    value += b" " * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    length = struct.pack("<HL", 0, len(value)) if vr in LONG else struct.pack("<H", len(value))
    return head + length + value


def item(value):
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(value)) + value


def planted(*, below=None, as_vr=None):
    """Bytes of elements, with a word in each; with `below` all in an item of that sequence."""
    parts, words = [], {}
    for tag, vr in tags():
        if vr == "SQ" and as_vr is None:
            continue
        words[tag] = word(tag)
        parts.append((tag, element(tag, as_vr or vr, words[tag])))
    if below is None:
        return parts, words
    inner = b"".join(part for _, part in parts)
    return [(below, element(below, "SQ", item(inner)))], words


def file_with(parts):
    """An image among whose elements, in the order of tags, others are put."""
    plain = content(image())
    whole = dict(parts)
    begin = plain.index(b"\x08\x00\x08\x00CS")  # Image Type, the first one
    at, own = begin, {}
    while at < len(plain):
        tag = struct.unpack_from("<HH", plain, at)
        vr = plain[at + 4 : at + 6].decode()
        wide = vr in LONG
        length = struct.unpack_from("<L" if wide else "<H", plain, at + (8 if wide else 6))[0]
        end = at + (12 if wide else 8) + length
        own[tag[0] << 16 | tag[1]] = plain[at:end]
        at = end
    whole |= {tag: part for tag, part in own.items() if tag not in whole or _needed(tag)}
    return plain[:begin] + b"".join(whole[tag] for tag in sorted(whole))


def _needed(tag):
    return keyword_for_tag(Tag(tag)) in NEEDED


def left(data, words):
    new = _new_file(data, KEY, frozenset()).content
    return [keyword_for_tag(tag) or hex(tag) for tag, one in words.items() if one in new]


def test_there_are_many():
    parts, words = planted()
    assert len(words) > 3500
    assert len(set(words.values())) == len(words)
    data = file_with(parts)
    assert all(one in data for one in words.values())


def test_nothing_is_left_of_a_word_in_every_attribute():
    parts, words = planted()
    assert left(file_with(parts), words) == []


@pytest.mark.parametrize("vr", ["LO", "UN", "PN", "OB", "UT", "DS", "CS", "FD"])
def test_nothing_is_left_of_a_word_in_every_attribute_of_another_representation(vr):
    parts, words = planted(as_vr=vr)
    assert left(file_with(parts), words) == []


@pytest.mark.parametrize("below", sorted(kept().sequences | set(kept().codes)))
def test_nothing_is_left_of_a_word_in_every_attribute_of_every_sequence(below):
    tag = next(tag for tag, entry in DicomDictionary.items() if entry[4] == below)
    parts, words = planted(below=tag)
    assert left(file_with(parts), words) == []


def test_the_file_is_as_its_builder_means_it():
    assert _new_file(file_with([]), KEY, frozenset()).content
    assert ExplicitVRLittleEndian.is_little_endian
