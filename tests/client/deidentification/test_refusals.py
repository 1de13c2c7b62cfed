"""Which images may hold text in their pixels, and which files are none."""

from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from dicom_images import content, image
from pydicom import uid
from pydicom.data import get_testdata_file

from wardround_client.deidentification.deidentify import _new_file
from wardround_client.deidentification.project_key import ProjectKey
from wardround_client.deidentification.refusals import Reason
from wardround_shared.errors import UnreadableError

KEY = ProjectKey(project="lungs", secret=bytes(32))
CR, US = uid.ComputedRadiographyImageStorage, uid.UltrasoundImageStorage
CAPTURE = uid.SecondaryCaptureImageStorage


def outcome(ds, *, looked_at=()):
    try:
        _new_file(content(ds), KEY, frozenset(looked_at))
    except UnreadableError as error:
        return Reason(str(error))
    return "written"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, "written"),
        ({"Modality": "MR", "SOPClassUID": uid.MRImageStorage}, "written"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}, "written"),
        ({"BurnedInAnnotation": "NO"}, "written"),
        ({"BurnedInAnnotation": "YES"}, Reason.BURNED_IN),
        ({"RecognizableVisualFeatures": "YES"}, Reason.FEATURES),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, Reason.UNSTATED),
        ({"ImageType": ["DERIVED", "SECONDARY"], "BurnedInAnnotation": "NO"}, "written"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, Reason.CAPTURE),
        (
            {"ImageType": ["ORIGINAL", "PRIMARY", "CSA REPORT"], "BurnedInAnnotation": "NO"},
            Reason.CAPTURE,
        ),
        ({"PhotometricInterpretation": "RGB"}, Reason.UNSTATED),
        ({"ConversionType": "WSD"}, Reason.UNSTATED),
        ({"ConversionType": "SD", "BurnedInAnnotation": "NO"}, Reason.CAPTURE),
        ({"Modality": "US"}, Reason.UNSTATED),
        ({"Modality": "US", "SOPClassUID": US}, Reason.UNSTATED),
        ({"Modality": "US", "SOPClassUID": US, "BurnedInAnnotation": "NO"}, "written"),
        ({"Modality": "CR", "SOPClassUID": CR}, Reason.UNSTATED),
        ({"Modality": "CR", "SOPClassUID": CR, "BurnedInAnnotation": "UNKNOWN"}, Reason.UNSTATED),
        ({"Modality": "CR", "SOPClassUID": CR, "BurnedInAnnotation": "NO"}, "written"),
        ({"SOPClassUID": CAPTURE}, Reason.UNSTATED),
        ({"SOPClassUID": CAPTURE, "BurnedInAnnotation": "NO"}, "written"),
        ({"SOPClassUID": uid.EncapsulatedPDFStorage}, Reason.KIND),
        ({"SOPClassUID": uid.ComprehensiveSRStorage}, Reason.KIND),
        ({"SOPClassUID": uid.GrayscaleSoftcopyPresentationStateStorage}, Reason.KIND),
        ({"SOPClassUID": "1.2.276.0.4711"}, Reason.KIND),
        ({"SOPClassUID": None}, Reason.KIND),
        ({"PatientID": None}, Reason.NO_PATIENT),
        ({"PatientID": " "}, Reason.NO_PATIENT),
        ({"SOPInstanceUID": None}, Reason.NO_INSTANCE),
        ({"PixelData": None}, Reason.NO_PIXELS),
    ],
)
def test_what_is_written_and_what_is_refused(attributes, expected):
    assert outcome(image(**attributes)) == expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"Modality": "CR", "SOPClassUID": CR}, "written"),
        ({"Modality": "DX", "SOPClassUID": CR}, Reason.UNSTATED),
        ({"Modality": "CR", "SOPClassUID": CR, "BurnedInAnnotation": "YES"}, Reason.BURNED_IN),
        ({"Modality": "CR", "SOPClassUID": CR, "ConversionType": "WSD"}, Reason.UNSTATED),
        ({"Modality": "CR", "SOPClassUID": CAPTURE}, Reason.UNSTATED),
        ({"Modality": "CR", "SOPClassUID": CR, "ImageType": ["DERIVED", "SCREEN"]}, Reason.CAPTURE),
    ],
)
def test_that_somebody_looked_replaces_a_missing_statement_and_nothing_else(attributes, expected):
    assert outcome(image(**attributes), looked_at=["CR"]) == expected


def test_a_whole_file_that_is_cut_anywhere_is_never_written_short():
    whole = content(image())
    expected = pydicom.dcmread(BytesIO(whole)).PixelData
    for length in range(0, len(whole), 7):
        with pytest.raises(UnreadableError):
            _new_file(whole[:length], KEY, frozenset())
    new = pydicom.dcmread(BytesIO(_new_file(whole, KEY, frozenset()).content))
    assert new.PixelData == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PatientName,4711\n",
        b"\x02\0\0\0" + bytes(200),
        b"\x08\0\x05\0" + b"Quistgaard, Ingeborg" * 20,
        b"PK\3\4" + bytes(300),
        bytes(4000),
    ],
)
def test_what_is_no_dicom_file_is_left_out(data):
    with pytest.raises(UnreadableError, match=Reason.NOT_DICOM):
        _new_file(data, KEY, frozenset())


def test_garbage_behind_the_prefix_is_refused_in_silence(capfd, caplog):
    data = bytes(128) + b"DICM" + b"Quistgaard, Ingeborg" * 20
    with pytest.raises(UnreadableError):
        _new_file(data, KEY, frozenset())
    captured = capfd.readouterr()
    assert "Quist" not in captured.out + captured.err + caplog.text


def test_a_value_that_pydicom_warns_of_is_quoted_nowhere(capfd, caplog):
    data = content(image(SpecificCharacterSet="ISO_IR 100")).replace(b"ISO_IR 100", b"Quistgaard")
    with pytest.warns(UserWarning, match="Quistgaard"):
        list(pydicom.dcmread(BytesIO(data)))
    caplog.clear()
    _new_file(data, KEY, frozenset())
    captured = capfd.readouterr()
    assert "Quist" not in captured.out + captured.err + caplog.text


@pytest.mark.parametrize("name", ["DICOMDIR", "DICOMDIR-bigEnd", "DICOMDIR-implicit"])
def test_a_directory_of_patients_is_left_out(name):
    data = Path(get_testdata_file(f"dicomdirtests/{name}", download=False)).read_bytes()
    with pytest.raises(UnreadableError, match="DICOMDIR"):
        _new_file(data, KEY, frozenset())


def test_a_reason_quotes_nothing():
    assert all(reason.isascii() and "{" not in reason for reason in Reason)
