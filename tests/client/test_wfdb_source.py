"""WFDB: records and beats of a synthetic record that the wfdb package wrote."""

import warnings

import numpy as np
import pytest

from wardround_client.sources import open_source
from wardround_shared.errors import CohortError, DataError, StudyError

WHOLE = """
[data]
source = "wfdb"
table = ["records.csv"]
record = "record"
folder = "raw"
leads = ["V1", "II"]
patient = "who"
label = { column = "rhythm" }
"""
BEATS = WHOLE.replace(
    'label = { column = "rhythm" }',
    'annotator = "atr"\nbefore = 0.1\nafter = 0.2\nunreadable-share = 0.5\n'
    'label = { column = "symbol", values = { absent = ["N"], present = ["V"] } }\n'
    'static = [{ column = "rr_prev" }, { column = "rr_next" },\n'
    '{ column = "rr_prev", form = "over-patient" }]\n',
)
SIGNAL = {"task": "signal-classification"}
RATE = 100


@pytest.fixture
def folder(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import wfdb

        time = np.arange(500) / RATE
        signal = np.stack([np.sin(time), np.cos(time)], axis=1)
        for name in ("r1", "r2", "spare"):
            wfdb.wrsamp(
                name,
                fs=RATE,
                units=["mV", "mV"],
                sig_name=["II", "V1"],
                p_signal=signal,
                fmt=["16", "16"],
                write_dir=str(raw),
            )
            wfdb.wrann(
                name,
                "atr",
                np.array([5, 50, 80, 150, 200, 450]),
                ["N", "N", "+", "V", "N", "N"],
                aux_note=["", "", "(N", "", "", ""],
                write_dir=str(raw),
            )
    (tmp_path / "records.csv").write_text(
        "record,who,rhythm\nr1,a,present\nr2,b,absent\ngone,c,absent\n"
    )
    return tmp_path


def test_whole_records_have_the_leads_in_the_order_asked_for(folder, study_of, read):
    records, aside, notes = read(study_of(WHOLE, **SIGNAL), folder)
    assert [(r.patient, r.stratum, r.sampling_rate) for r in records] == [
        ("a", 1, 100),
        ("b", 0, 100),
    ]
    time = np.arange(500) / RATE
    np.testing.assert_allclose(records[0].main, [np.cos(time), np.sin(time)], atol=1e-3)
    assert records[0].main.dtype == np.float32
    assert [(a.key, a.reason) for a in aside] == [("records.csv:4", "the file is not there")]
    assert notes == ("raw: 1 WFDB records are in no label table and are left out.",)


def test_records_without_an_annotator_are_cut_into_windows(folder, study_of, read):
    windows = "windows = { length = 1.5, start = 0.5 }\nunreadable-share = 0.4\n"
    records, aside, _ = read(study_of(WHOLE + windows, **SIGNAL), folder)
    assert [(r.key, r.patient) for r in records] == [
        (f"records.csv:{line}@{start}", patient)
        for line, patient in ((2, "a"), (3, "b"))
        for start in (50, 200, 350)
    ]
    np.testing.assert_allclose(records[1].main[1], np.sin(np.arange(200, 350) / RATE), atol=1e-3)
    assert len(aside) == 1
    with pytest.raises(CohortError, match="1 of 3 records cannot be read"):
        read(study_of(WHOLE + windows.replace("0.4", "0.3"), **SIGNAL), folder)
    with pytest.raises(StudyError, match=r"data.windows: cutting into 1.5 s has no effect with an"):
        study_of(BEATS + windows.partition("\n")[0], **SIGNAL)


def test_a_lost_record_of_many_beats_stops_the_run(folder, study_of, read):
    strict = BEATS.replace("unreadable-share = 0.5\n", "")
    with pytest.raises(
        CohortError,
        match=r"the data: 1 of 3 annotated records cannot be read \(records\.csv:4 for one\), most "
        r"often because the file is not there \(1 times\).*unreadable-share = 0\.05\.",
    ):
        read(study_of(strict, **SIGNAL), folder)


def test_records_of_one_beat_each_count_as_beats(folder, study_of, read):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import wfdb

        for name in ("r1", "r2"):
            wfdb.wrann(name, "atr", np.array([150]), ["V"], write_dir=str(folder / "raw"))
    strict = BEATS.replace("unreadable-share = 0.5\n", "")
    records, aside, _ = read(study_of(strict, **SIGNAL), folder)
    assert (len(records), [a.key for a in aside]) == (2, ["records.csv:4"])


def test_beats_have_intervals_in_seconds_and_leave_other_marks_out(folder, study_of, read):
    records, aside, _ = read(study_of(BEATS, **SIGNAL), folder)
    mine = [r for r in records if r.patient == "a"]
    assert [r.key for r in mine] == [f"records.csv:2@{at}" for at in (50, 150, 200, 450)]
    assert [r.stratum for r in mine] == [0, 1, 0, 0]
    np.testing.assert_allclose(
        [r.static for r in mine],
        [[0.45, 1.0, 0.6], [1.0, 0.5, 4 / 3], [0.5, 2.5, 2 / 3], [2.5, np.nan, 10 / 3]],
    )
    np.testing.assert_allclose(mine[0].main[1], np.sin(np.arange(40, 70) / RATE), atol=1e-3)
    assert {a.reason for a in aside} == {
        "the file is not there",
        "the window around the beat reaches beyond the record",
    }


def test_a_record_that_where_leaves_out_is_not_opened(folder, study_of, read):
    where = 'where = { record = ["r1"], symbol = ["V"] }\n'
    text = BEATS.replace("annotator", where + "annotator")
    records, aside, notes = read(study_of(text, **SIGNAL), folder)
    assert ([r.key for r in records], aside) == (["records.csv:2@150"], [])
    # The median still comes from all beats of the patient: a label must not show in a feature.
    assert records[0].static[2] == pytest.approx(4 / 3)
    assert len(notes) == 3


@pytest.mark.parametrize("ending", ["hea", "dat"])
def test_a_damaged_record_is_set_aside(folder, study_of, read, ending):
    path = folder / "raw" / f"r1.{ending}"
    path.write_bytes(path.read_bytes()[:20])
    records, aside, _ = read(study_of(WHOLE, **SIGNAL), folder)
    assert [r.patient for r in records] == ["b"]
    assert ("records.csv:2", "the WFDB files of the record are damaged") in [
        (a.key, a.reason) for a in aside
    ]


def test_a_lead_that_is_not_there_sets_the_record_aside(folder, study_of, read):
    records, aside, _ = read(study_of(WHOLE.replace('"II"', '"V9"'), **SIGNAL), folder)
    assert not records
    assert aside[0].reason == "the record lacks a lead that the study names"


def test_a_missing_folder_of_records_is_named(folder, study_of):
    with pytest.raises(DataError, match="elsewhere: there is no such data folder"):
        open_source(study_of(WHOLE.replace('"raw"', '"elsewhere"'), **SIGNAL), folder)
