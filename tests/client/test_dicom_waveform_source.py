"""DICOM waveforms: leads by any of their names, in volts, and nothing of who it was."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from damage import damaged
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, TwelveLeadECGWaveformStorage, generate_uid

from wardround_client.sources.dicom_header import read_tags
from wardround_client.sources.dicom_waveform import ALLOWED_TAGS, read_waveform
from wardround_shared.errors import UnreadableError
from wardround_shared.study import Windows

ECG = Path(get_testdata_file("waveform_ecg.dcm"))
LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
STORED = np.arange(20).reshape(10, 2)


def code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "MDC", meaning
    return item


def channel(source: Dataset, **tags) -> Dataset:
    item = Dataset()
    item.ChannelSourceSequence = Sequence([source])
    item.ChannelSensitivity = 2
    item.ChannelSensitivityUnitsSequence = Sequence([code("uV", "microvolt")])
    item.ChannelSensitivityCorrectionFactor = 1
    item.ChannelBaseline = 0
    for name, value in tags.items():
        setattr(item, name, value)
    return item


def group(stored=STORED, kind: str = "SS", bits: int = 16, channels=None, **tags) -> Dataset:
    """A multiplex group of the samples [T, C]."""
    letter = {"S": "i", "U": "u"}[kind[0] if kind[0] in "SU" else "S"]
    item = Dataset()
    item.NumberOfWaveformSamples, item.NumberOfWaveformChannels = stored.shape
    item.SamplingFrequency = 10
    item.ChannelDefinitionSequence = Sequence(
        channels or [channel(code("2:1", "Lead I")), channel(code("2:2", "Lead II"))]
    )
    item.WaveformBitsAllocated, item.WaveformSampleInterpretation = bits, kind
    item.add_new("WaveformData", "OW", stored.astype(f"<{letter}{bits // 8}").tobytes())
    for name, value in tags.items():
        setattr(item, name, value)
    return item


def write(path: Path, *groups: Dataset) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = TwelveLeadECGWaveformStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.PatientName = "Not^Read"
    dataset.WaveformSequence = Sequence(groups)
    dataset.save_as(path, enforce_file_format=True)
    return path


def only(path: Path, *leads: str, unit: str = "uV") -> np.ndarray:
    (reading,) = read_waveform(path, leads=leads, unit=unit)
    return reading.main


def refused(path: Path, *leads: str, unit: str = "uV", windows: Windows | None = None) -> str:
    with pytest.raises(UnreadableError) as caught:
        read_waveform(path, leads=leads, unit=unit, windows=windows)
    return str(caught.value)


def test_the_twelve_leads_of_a_real_ecg():
    (reading,) = read_waveform(ECG, leads=LEADS, unit="mV")
    assert (reading.main.shape, reading.main.dtype) == ((12, 10000), np.float32)
    assert reading.sampling_rate == 1000.0
    theirs = pydicom.dcmread(ECG).waveform_array(0).T / 1000
    np.testing.assert_allclose(reading.main, theirs, rtol=1e-6)
    # Einthoven: I + III = II, but for what was rounded off.
    np.testing.assert_allclose(reading.main[0] + reading.main[2], reading.main[1], atol=0.004)


@pytest.mark.parametrize(
    "leads", [("II", "V1"), ("5.6.3-9-2", "5.6.3-9-3"), ("lead ii", "Lead V1"), ("ii", "v1")]
)
def test_a_lead_has_several_names(leads):
    np.testing.assert_array_equal(only(ECG, *leads), only(ECG, "II", "V1"))


def test_names_of_the_newer_scheme_and_labels(tmp_path):
    named = [channel(code("2:62", "x")), channel(code("1", "y"), ChannelLabel="Nehb D")]
    path = write(tmp_path / "a.dcm", group(channels=named))
    np.testing.assert_array_equal(only(path, "Nehb D", "aVR"), STORED.T[::-1] * 2.0)


def test_sensitivity_correction_and_baseline_in_the_unit_of_the_study(tmp_path):
    calibrated = [
        channel(
            code("2:1", "I"),
            ChannelSensitivity=3,
            ChannelSensitivityCorrectionFactor=1.5,
            ChannelBaseline=7,
        ),
        channel(
            code("2:2", "II"), ChannelSensitivityUnitsSequence=Sequence([code("mV", "millivolt")])
        ),
    ]
    path = write(tmp_path / "a.dcm", group(channels=calibrated))
    first, second = STORED.T
    np.testing.assert_allclose(only(path, "I", "II"), [first * 4.5 + 7, second * 2000.0])
    np.testing.assert_allclose(
        only(path, "I", "II", unit="mV"), [first * 0.0045 + 0.007, second * 2.0], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "bits", "shift"),
    [("SB", 8, -9), ("UB", 8, 200), ("SS", 16, -9), ("US", 16, 40000), ("SL", 32, -9)],
)
def test_samples_of_each_kind(tmp_path, kind, bits, shift):
    path = write(tmp_path / "a.dcm", group(STORED + shift, kind, bits))
    np.testing.assert_array_equal(only(path, "I"), (STORED.T[:1] + shift) * 2.0)


def test_the_first_group_that_has_all_leads_is_read(tmp_path):
    other = group(STORED + 100, channels=[channel(code("2:1", "")), channel(code("2:3", ""))])
    path = write(tmp_path / "a.dcm", other, group())
    np.testing.assert_array_equal(only(path, "II", "I"), STORED.T[::-1] * 2.0)
    np.testing.assert_array_equal(only(path, "I"), (STORED.T[:1] + 100) * 2.0)


def test_windows_of_a_recording(tmp_path):
    path = write(tmp_path / "a.dcm", group())
    found = read_waveform(path, leads=["I"], unit="uV", windows=Windows(length=0.4))
    assert [reading.part for reading in found] == ["@0", "@4"]
    np.testing.assert_array_equal(found[1].main[0], STORED[4:8, 0] * 2.0)


def test_faults_have_their_phrases(tmp_path):
    path = write(tmp_path / "a.dcm", group())
    assert refused(path, "I", "V6") == "the record lacks a lead that the study names"
    assert refused(path, "I", unit="mmHg") == "a lead is in another unit than data.unit says"
    assert refused(path, "I", windows=Windows(length=2)) == (
        "the recording is shorter than the window"
    )
    twice = [channel(code("2:1", "")), channel(code("2:1", ""))]
    path = write(tmp_path / "b.dcm", group(channels=twice))
    assert refused(path, "I") == "the recording has a lead twice that the study names"
    path = write(tmp_path / "c.dcm", group(kind="MB", bits=8))
    assert refused(path, "I") == "the waveform's samples are of a kind that is not read"
    path = write(tmp_path / "d.dcm", group(NumberOfWaveformSamples=11))
    assert refused(path, "I") == "the waveform data is truncated or damaged"
    padded = group()
    padded.add_new("WaveformPaddingValue", "OW", np.array([STORED[3, 0]], dtype="<i2").tobytes())
    path = write(tmp_path / "e.dcm", padded)
    assert refused(path, "I") == "the record has samples marked as invalid"
    np.testing.assert_array_equal(only(path, "II"), STORED.T[1:] * 2.0)
    path = Path(get_testdata_file("CT_small.dcm"))
    assert refused(path, "I") == "the DICOM file has no waveform or is truncated"
    (tmp_path / "f.dcm").write_bytes(b"SECRET")
    assert refused(tmp_path / "f.dcm", "I") == "the file is not a DICOM file"


def test_nothing_but_the_waveform_is_read():
    dataset = read_tags(ECG, ALLOWED_TAGS)
    assert [element.keyword for element in dataset] == ["WaveformSequence"]
    kept = {element.keyword for item in dataset.WaveformSequence for element in item}
    assert kept <= set(ALLOWED_TAGS)
    names = pydicom.dcmread(ECG)
    assert str(names.PatientID) not in str(dataset)


PHRASES = {
    "the file is not a DICOM file",
    "the DICOM file is truncated or damaged",
    "the DICOM file has no waveform or is truncated",
    "the record lacks a lead that the study names",
    "the recording has a lead twice that the study names",
    "the waveform data is truncated or damaged",
    "the waveform's samples are of a kind that is not read",
    "a lead is in another unit than data.unit says",
    "the sampling rate of the recording is no positive number",
    "the recording is shorter than the window",
    "the window is shorter than a sample of the recording",
}


def test_a_damaged_file_is_read_or_set_aside_and_never_anything_else(tmp_path, caplog):
    whole = write(tmp_path / "a.dcm", group(), group()).read_bytes()
    path, outcomes = tmp_path / "b.dcm", set()
    for content in damaged(whole, 300):
        path.write_bytes(content)
        try:
            found = read_waveform(path, leads=["I"], unit="uV", windows=Windows(length=0.5))
            outcomes.add(len(found))
        except UnreadableError as error:
            outcomes.add(str(error))
    assert {2} < outcomes
    assert {one for one in outcomes if isinstance(one, str)} <= PHRASES
    assert not caplog.records


TABLE = """
[data]
source = "dicom-waveform"
table = ["labels.csv"]
file = "file"
leads = ["I", "II"]
label = { column = "kind" }
"""


def test_a_folder_of_ecgs_is_read(tmp_path, study_of, read):
    write(tmp_path / "a.dcm", group())
    (tmp_path / "b.dcm").write_bytes(ECG.read_bytes()[:9000])
    (tmp_path / "labels.csv").write_text("file,kind\na.dcm,present\nb.dcm,absent\n")
    records, aside, _ = read(study_of(TABLE, task="signal-classification"), tmp_path)
    ((one),) = records
    assert (one.key, one.stratum, one.sampling_rate) == ("labels.csv:2", 1, 10.0)
    # data.unit is mV unless the study says otherwise.
    np.testing.assert_allclose(one.main, STORED.T * 0.002, rtol=1e-6)
    assert [a.key for a in aside] == ["labels.csv:3"]
    assert aside[0].reason in PHRASES
