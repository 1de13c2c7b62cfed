"""EDF: the values that were recorded, in one unit, and nothing of who it was."""

import os
from pathlib import Path

import edfio
import numpy as np
import pytest
from damage import damaged

from wardround_client.sources.edf import read_edf
from wardround_shared.errors import UnreadableError
from wardround_shared.study import Windows

DATA = Path(os.environ.get("WARDROUND_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
WAVE = np.round(100 * np.sin(np.arange(200) / 7), 1)


def signal(label: str, values=WAVE, *, rate: float = 50.0, unit: str = "uV") -> edfio.EdfSignal:
    return edfio.EdfSignal(
        values, rate, label=label, physical_dimension=unit, physical_range=(-200, 200)
    )


def write(path: Path, *signals: edfio.EdfSignal, **settings) -> Path:
    patient = edfio.Patient(code="SECRET-17", name="Not_Read")
    edfio.Edf([*signals], patient=patient, **settings).write(path)
    return path


def only(path: Path, *leads: str, unit: str = "uV") -> np.ndarray:
    (reading,) = read_edf(path, leads=leads, unit=unit)
    return reading.main


def refused(path: Path, *leads: str, **settings) -> str:
    with pytest.raises(UnreadableError) as caught:
        read_edf(path, leads=leads, **{"unit": "uV", **settings})
    assert caught.value.__cause__ is None or not str(caught.value).count("SECRET")
    return str(caught.value)


def test_leads_come_in_the_order_of_the_study(tmp_path):
    path = write(tmp_path / "a.edf", signal("F3"), signal("F4", -WAVE), signal("Cz", WAVE / 2))
    (reading,) = read_edf(path, leads=["Cz", "F3"], unit="uV")
    assert (reading.main.dtype, reading.sampling_rate, reading.part) == (np.float32, 50.0, "")
    # 16 bits over 400 uV.
    np.testing.assert_allclose(reading.main, [WAVE / 2, WAVE], atol=400 / 2**16)


@pytest.mark.parametrize(
    ("stored", "wanted", "factor"),
    [("mV", "uV", 1e3), ("uV", "mV", 1e-3), ("V", "mV", 1e3), ("mmHg", "mmHg", 1), ("%", "any", 1)],
)
def test_volts_are_converted(tmp_path, stored, wanted, factor):
    path = write(tmp_path / "a.edf", signal("A", unit=stored))
    np.testing.assert_allclose(
        only(path, "A", unit=wanted)[0], WAVE * factor, atol=factor * 400 / 2**16
    )


@pytest.mark.parametrize("letter", [b"\xb5V", b"uV"])
def test_either_way_to_write_micro_is_read(tmp_path, letter):
    path = write(tmp_path / "a.edf", signal("A", unit="uV"))
    path.write_bytes(path.read_bytes().replace(b"uV", letter))
    np.testing.assert_allclose(only(path, "A")[0], WAVE, atol=400 / 2**16)


def test_windows_of_a_recording(tmp_path):
    path = write(tmp_path / "a.edf", signal("A"))
    found = read_edf(path, leads=["A"], unit="uV", windows=Windows(length=1.0, start=0.5))
    assert [reading.part for reading in found] == ["@25", "@75", "@125"]
    np.testing.assert_allclose(found[1].main[0], WAVE[75:125], atol=400 / 2**16)


def test_faults_have_their_phrases(tmp_path):
    path = write(
        tmp_path / "a.edf",
        signal("A"),
        signal("B", WAVE[::2], rate=25.0),
        signal("C", unit="degC"),
        signal("D"),
        signal("D"),
    )
    assert refused(path, "Z") == "the record lacks a lead that the study names"
    assert refused(path, "A", "B") == "the leads that the study names differ in sampling rate"
    assert refused(path, "C") == "a lead is in another unit than data.unit says"
    assert refused(path, "D") == "the recording has a lead twice that the study names"
    short = refused(path, "A", windows=Windows(length=4.1))
    assert short == "the recording is shorter than the window"
    (tmp_path / "b.edf").write_bytes(b"0       SECRET")
    assert refused(tmp_path / "b.edf", "A") == "the file is not an EDF file"
    # A number of records that was never written: the recording was not finished.
    content = path.read_bytes()
    path.write_bytes(content[:236] + b"-1      " + content[244:])
    assert refused(path, "A") == "the EDF file is truncated or damaged"
    path.write_bytes(content + b"\0\0")
    assert refused(path, "A") == "the EDF file is truncated or damaged"


def test_a_lead_without_a_scale_is_refused(tmp_path):
    path = write(tmp_path / "a.edf", signal("A"))
    content = path.read_bytes()
    assert content.count(b"-200    ") == 1
    path.write_bytes(content.replace(b"-200    ", b"200     "))
    assert refused(path, "A") == "a lead of the EDF file has no scale"


def test_annotations_alone_and_gaps_are_refused(tmp_path):
    notes = [edfio.EdfAnnotation(1, None, "SECRET")]
    path = write(tmp_path / "a.edf", annotations=notes)
    assert refused(path, "A") == "the EDF file has annotations and no signal"
    path = write(tmp_path / "b.edf", signal("A"), annotations=notes)
    assert only(path, "A").shape == (1, 200)
    path.write_bytes(path.read_bytes().replace(b"EDF+C", b"EDF+D"))
    assert refused(path, "A") == "the EDF+ recording has gaps (EDF+D)"


PHRASES = {
    "the file is not an EDF file",
    "the EDF file is truncated or damaged",
    "the EDF file has annotations and no signal",
    "the EDF+ recording has gaps (EDF+D)",
    "the record lacks a lead that the study names",
    "the leads that the study names differ in sampling rate",
    "a lead is in another unit than data.unit says",
    "a lead of the EDF file has no scale",
    "the recording is shorter than the window",
    "the sampling rate of the recording is no positive number",
    "the window is shorter than a sample of the recording",
}


@pytest.mark.parametrize("within", [256, 768, None])
def test_a_damaged_file_is_read_or_set_aside_and_never_anything_else(tmp_path, caplog, within):
    notes = [edfio.EdfAnnotation(1, None, "SECRET")]
    whole = write(tmp_path / "a.edf", signal("A"), signal("B"), annotations=notes).read_bytes()
    path, outcomes = tmp_path / "b.edf", set()
    for content in damaged(whole, 150, within=within):
        path.write_bytes(content)
        try:
            outcomes.add(
                len(read_edf(path, leads=["B", "A"], unit="uV", windows=Windows(length=2.0)))
            )
        except UnreadableError as error:
            outcomes.add(str(error))
    assert {2} < outcomes
    assert {one for one in outcomes if isinstance(one, str)} <= PHRASES
    assert not caplog.records


@pytest.mark.parametrize("name", ["Subject00_2.edf", "Subject01_2.edf"])
def test_a_real_recording_is_what_its_excerpt_was_made_of(name):
    folder = DATA / "eeg-mental-arithmetic"
    path = folder / "raw" / name
    if not path.is_file():
        pytest.skip("the data set eeg-mental-arithmetic is not here")
    channels = ["F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2"]
    (reading,) = read_edf(path, leads=[f"EEG {one}" for one in channels], unit="uV")
    assert (reading.main.shape, reading.sampling_rate) == ((8, 31000), 500.0)
    excerpt = np.load(folder / "eegmat_8ch_125hz.npz")
    row = 2 * int(name[7:9]) + 1
    # Brought from 500 to 125 Hz, and stored in tenths of a microvolt.
    from scipy.signal import decimate

    low = decimate(reading.main[:, :30000].astype(float), 4, axis=1, ftype="fir")
    for ours, theirs in zip(low, excerpt["X"][row] / 10, strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.98


TABLE = """
[data]
source = "edf"
table = ["labels.csv"]
file = "file"
leads = ["A"]
label = { column = "kind" }
patient = "who"
windows = { length = 1.0 }
static = [{ column = "age" }]
"""


def test_a_folder_of_recordings_is_read_and_accounted_for(tmp_path, study_of, read):
    write(tmp_path / "a.edf", signal("A"))
    write(tmp_path / "b.edf", signal("A"))
    write(tmp_path / "c.EDF", signal("A"))
    rows = ["file,kind,who,age", "a.edf,present,p,40", "b.edf,absent,q,old", "gone.edf,absent,r,50"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    study = study_of(TABLE + "unreadable-share = 0.7\n", task="signal-classification")
    records, aside, notes = read(study, tmp_path)
    assert [(r.key, r.patient, r.stratum, r.static.tolist()) for r in records] == [
        (f"labels.csv:2@{start}", "p", 1, [40.0]) for start in (0, 50, 100, 150)
    ]
    assert {(a.key, a.reason) for a in aside} == {
        ("labels.csv:3", "column age holds no finite number"),
        ("labels.csv:4", "the file is not there"),
    }
    assert notes == (".: 1 signal files are in no label table and are left out.",)
