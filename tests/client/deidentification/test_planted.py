"""Whatever is planted in a file is gone: from the new file, its name, the report and the log."""

import json
from io import BytesIO

import numpy as np
import pydicom
import pytest
from planted import PIXELS, forms, planted_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from typer.testing import CliRunner

from wardround_client.cli import app
from wardround_client.sources.dicom import read_dicom

KEY = "5a" * 32


def deidentify(folder, output, *options):
    key = folder.parent / "project.key"
    key.write_text(KEY)
    key.chmod(0o600)
    arguments = ["data", "deidentify", folder, output, "--key", key, *options]
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def left(identifiers, *contents):
    """The places whose identifier is somewhere in the contents."""
    found = []
    for place, identifier in identifiers.items():
        for form in forms(identifier):
            if any(form in content or form in content.lower() for content in contents):
                found.append(place)
                break
    return found


@pytest.fixture
def planted(tmp_path):
    content, identifiers = planted_file()
    folder = tmp_path / "in" / "Quistgaard^Ingeborg"
    folder.mkdir(parents=True)
    (folder / "Hvarfdatter_4711.dcm").write_bytes(content)
    named = {"folder": "Quistgaard", "file": "Hvarfdatter"}
    return tmp_path, content, identifiers | named


def written_below(output):
    return [path for path in output.rglob("*") if path.is_file()]


def test_the_planted_file_holds_what_the_tests_look_for(planted):
    _, content, identifiers = planted
    names = b"Quistgaard^Ingeborg/Hvarfdatter_4711.dcm"
    assert set(identifiers) - set(left(identifiers, content, names)) == set()
    assert len(identifiers) >= 51


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_nothing_planted_is_left_anywhere(planted, options):
    tmp_path, _, identifiers = planted
    result = deidentify(tmp_path / "in", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    (new,) = written_below(tmp_path / "out")
    names = str(new.relative_to(tmp_path)).encode()
    assert left(identifiers, new.read_bytes(), names, result.output.encode()) == []


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_nothing_planted_is_left_in_any_uncompressed_form(planted, syntax):
    tmp_path, content, identifiers = planted
    source = pydicom.dcmread(BytesIO(content))
    (path,) = written_below(tmp_path / "in")
    if syntax == ExplicitVRBigEndian:
        source.PixelData = np.frombuffer(source.PixelData, "<u2").astype(">u2").tobytes()
    if syntax == ImplicitVRLittleEndian:
        del source[0x00180060]  # without its false representation it is unreadable, not a text
    source.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(
        path,
        source,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
        force_encoding=True,
    )
    result = deidentify(tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 0, result.output
    (new,) = written_below(tmp_path / "out")
    again = pydicom.dcmread(new)
    assert again.file_meta.TransferSyntaxUID == syntax
    again.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plain = BytesIO()
    pydicom.dcmwrite(plain, again, implicit_vr=False, little_endian=True, force_encoding=True)
    assert left(identifiers, new.read_bytes(), plain.getvalue()) == []


def test_without_preamble_or_in_a_file_that_does_not_say_its_syntax(planted):
    tmp_path, content, identifiers = planted
    (path,) = written_below(tmp_path / "in")
    path.write_bytes(content[132:])
    source = pydicom.dcmread(BytesIO(content))
    buffer = BytesIO()
    source.file_meta = FileMetaDataset()
    source.SOPInstanceUID = "1.2.3.4"
    source.preamble = None
    pydicom.dcmwrite(buffer, source, implicit_vr=False, little_endian=True)
    (path.parent / "bare.dcm").write_bytes(buffer.getvalue())
    result = deidentify(tmp_path / "in", tmp_path / "out", "--json")
    assert json.loads(result.stdout)["written"] == 2, result.stdout
    for new in written_below(tmp_path / "out"):
        assert left(identifiers, new.read_bytes()) == []
        assert new.read_bytes()[:132] == bytes(128) + b"DICM"


def test_the_image_stays_and_so_does_its_meaning(planted):
    tmp_path, _, _ = planted
    deidentify(tmp_path / "in", tmp_path / "out")
    (new,) = written_below(tmp_path / "out")
    written = pydicom.dcmread(new)
    assert written.PixelData == PIXELS.tobytes()
    assert (written.InstanceNumber, written.SeriesNumber, written.Modality) == (7, 2, "CT")
    assert list(written.ImageType) == ["ORIGINAL", "PRIMARY"]
    np.testing.assert_array_equal(read_dicom(new)[0].main, PIXELS - 1024.0)


def test_the_file_says_what_was_done(planted):
    tmp_path, _, _ = planted
    deidentify(tmp_path / "in", tmp_path / "out")
    (new,) = written_below(tmp_path / "out")
    written = pydicom.dcmread(new)
    codes = [(c.CodeValue, c.CodingSchemeDesignator) for c in written[0x00120064].value]
    assert codes == [("113100", "DCM"), ("113107", "DCM")]
    assert written.PatientIdentityRemoved == "YES"
    assert "PS3.15 2026c" in written.DeidentificationMethod
    assert written.LongitudinalTemporalInformationModified == "MODIFIED"
    assert written.PatientID == written.PatientName == new.parent.name
    meta = {element.keyword for element in written.file_meta}
    assert meta == {
        "FileMetaInformationGroupLength",
        "FileMetaInformationVersion",
        "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID",
        "TransferSyntaxUID",
        "ImplementationClassUID",
        "ImplementationVersionName",
    }


def test_a_written_file_passes_again(planted):
    tmp_path, _, identifiers = planted
    deidentify(tmp_path / "in", tmp_path / "out")
    result = deidentify(tmp_path / "out", tmp_path / "again", "--json")
    content = json.loads(result.stdout)
    assert (content["written"], content["refused"]) == (1, {})
    # Only what says how the first pass went is removed, and written anew.
    assert content["attributes"]["removed_private"] == 0
    assert content["attributes"]["removed_by_profile"] == 0
    assert content["attributes"]["removed_unknown"] == 4
    (first,), (second,) = written_below(tmp_path / "out"), written_below(tmp_path / "again")
    one, two = pydicom.dcmread(first), pydicom.dcmread(second)
    assert set(one.keys()) == set(two.keys())
    assert one.PixelData == two.PixelData
    assert left(identifiers, second.read_bytes()) == []
