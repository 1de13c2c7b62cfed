"""The whole header: its texts come as they were meant, whichever character set the file has."""

import pydicom
import pytest
from dicom_images import content, image
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException

from wardround_client.sources.dicom_original import read_original
from wardround_shared.errors import UnreadableError

# Bytes and names of PS3.5 annexes H to K, and others.
STANDARD = {
    "japanese": (
        ["", "ISO 2022 IR 87"],
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    "japanese-half-width": (
        ["ISO 2022 IR 13", "ISO 2022 IR 87"],
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
    ),
    "korean": (
        ["", "ISO 2022 IR 149"],
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    "chinese": (
        ["", "ISO 2022 IR 58"],
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        "Zhang^XiaoDong=张^小东",
    ),
    "chinese-utf-8": ("ISO_IR 192", "Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong=王^小東"),
    "latin-1": ("ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
    "misspelt": ("ISO-IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
    "arabic": ("ISO_IR 127", "قباني^لنزار".encode("iso8859-6"), "قباني^لنزار"),
    "empty": ("", b"Quist^Ingeborg", "Quist^Ingeborg"),
    "none": (None, "Müller".encode("latin-1"), "Müller"),
}


def written(tmp_path, sets, name, **attributes):
    """A file with these very bytes as the patient's name, at the top and in a sequence."""
    stand_in = "Q" * (len(name) + len(name) % 2)
    ds = image(PatientName=stand_in, **attributes)
    item = Dataset()
    item.PersonName = stand_in
    ds.PersonIdentificationCodeSequence = [item]
    if sets is not None:
        ds.SpecificCharacterSet = sets
    path = tmp_path / "image.dcm"
    path.write_bytes(content(ds).replace(stand_in.encode(), name.ljust(len(stand_in))))
    return path


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, over the misspelt set
@pytest.mark.parametrize("case", STANDARD)
def test_a_name_is_the_same_in_utf_8(tmp_path, case):
    sets, raw, meant = STANDARD[case]
    header = read_original(written(tmp_path, sets, raw))
    del header.file_meta
    (tmp_path / "again.dcm").write_bytes(content(header))
    assert meant.encode() in (tmp_path / "again.dcm").read_bytes()
    again = pydicom.dcmread(tmp_path / "again.dcm")
    assert again.SpecificCharacterSet == "ISO_IR 192"
    assert str(again.PatientName).rstrip("=") == meant
    (item,) = again.PersonIdentificationCodeSequence
    assert str(item.PersonName).rstrip("=") == meant


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_item_of_a_sequence_may_have_its_own_set(tmp_path):
    item = Dataset()
    item.SpecificCharacterSet = "ISO_IR 127"
    item.PersonName = "قباني^لنزار"
    path = written(tmp_path, "ISO_IR 100", b"Quist", PersonIdentificationCodeSequence=[item])
    ds = pydicom.dcmread(path)
    ds.PersonIdentificationCodeSequence = [item]
    path.write_bytes(content(ds))
    (tmp_path / "again.dcm").write_bytes(content(read_original(path)))
    (again,) = pydicom.dcmread(tmp_path / "again.dcm").PersonIdentificationCodeSequence
    assert again.PersonName == "قباني^لنزار"
    assert again.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize(
    ("sets", "raw", "said"),
    [
        ("FOO", b"Quist", "its SpecificCharacterSet is unknown"),
        ("ISO_IR 192", b"M\xfcller", "the PatientName of the DICOM file is not in the character"),
        (["", "ISO 2022 IR 87"], b"\x1b$)C\xfb\xf3", "the PatientName of the DICOM file"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_name_that_nobody_can_read_is_refused(tmp_path, sets, raw, said):
    path = written(tmp_path, sets, raw)
    with pytest.raises(UnreadableError, match=said):
        read_original(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_value_that_nobody_needs_is_no_reason_to_refuse(tmp_path):
    path = written(tmp_path, "ISO_IR 100", b"Quist", ExposureTime=1234)
    path.write_bytes(path.read_bytes().replace(b"IS\4\0001234", b"FD\4\0001234"))  # of 8 bytes
    header = read_original(path)
    assert header.PatientName == "Quist"
    with pytest.raises(BytesLengthException):
        _ = header.ExposureTime
