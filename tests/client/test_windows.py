"""Recordings cut into windows: every one of the same length, none beyond the end, none missed."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_client.sources.windows import cut
from wardround_shared.errors import CohortError, StudyError, UnreadableError
from wardround_shared.study import Windows


def ramp(samples: int) -> np.ndarray:
    return np.stack([np.arange(samples), -np.arange(samples)]).astype(np.float32)


def starts(readings) -> list[int]:
    return [int(reading.main[0, 0]) for reading in readings]


def test_a_recording_without_windows_is_one_example():
    (whole,) = cut(ramp(7), 2.0, None)
    np.testing.assert_array_equal(whole.main, ramp(7))
    assert (whole.part, whole.sampling_rate) == ("", 2.0)


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ({"length": 2.0}, [0, 8, 16]),
        ({"length": 2.0, "stride": 1.5}, [0, 6, 12, 18]),
        ({"length": 2.0, "start": 1.0}, [4, 12]),
        ({"length": 2.0, "stride": 100.0}, [0]),
        ({"length": 6.5}, [0]),
        ({"length": 6.25, "start": 0.25}, [1]),
    ],
)
def test_windows_lie_where_the_study_says(windows, expected):
    found = cut(ramp(26), 4.0, Windows(**windows))
    assert starts(found) == expected
    assert [reading.part for reading in found] == [f"@{start}" for start in expected]
    for reading in found:
        length = round(windows["length"] * 4)
        start = int(reading.main[0, 0])
        np.testing.assert_array_equal(reading.main, ramp(26)[:, start : start + length])
        assert reading.sampling_rate == 4.0


@given(
    samples=st.integers(1, 400),
    rate=st.floats(0.5, 300),
    length=st.floats(0.01, 20),
    stride=st.none() | st.floats(0.001, 30),
    start=st.floats(0, 5),
)
def test_windows_fill_the_recording_and_never_leave_it(samples, rate, length, stride, start):
    windows = Windows(length=length, stride=stride, start=start)
    try:
        found = cut(ramp(samples), rate, windows)
    except UnreadableError:
        assert round(length * rate) + round(start * rate) > samples or length * rate < 0.5
        return
    width, step = round(length * rate), max((stride or length) * rate, 1.0)
    at = starts(found)
    assert {reading.main.shape for reading in found} == {(2, width)}
    assert at[0] == round(start * rate)
    assert all(abs(after - before - step) <= 1 for before, after in pairwise(at))
    # No further one would have fitted.
    assert round(start * rate + len(at) * step) + width > samples


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_sets_the_recording_aside(rate):
    with pytest.raises(UnreadableError, match="sampling rate of the recording"):
        cut(ramp(10), rate, Windows(length=1.0))


@pytest.mark.parametrize("rate", [1e300, 1e-300])
def test_a_rate_beyond_all_measure_sets_the_recording_aside(rate):
    with pytest.raises(UnreadableError, match="shorter than"):
        cut(ramp(10), rate, Windows(length=1.0))


DATA = """
[data]
source = "signals"
arrays = ["*.npz"]
sampling-rate = 4
label = { column = "y" }
"""
SIGNAL = {"task": "signal-classification"}
PATIENT = 'patient = "who"\n'
WINDOWS = "windows = { length = 2.0 }\n"


@pytest.fixture
def folder(tmp_path):
    def write(name, rows, samples):
        np.savez(
            tmp_path / name,
            X=np.stack([ramp(samples)] * rows),
            y=np.array(["absent", "present"] * rows)[:rows],
            who=np.array(list("aabbccdd"))[:rows],
        )

    write("a.npz", 4, 26)
    return tmp_path, write


def test_windows_of_an_array_keep_patient_and_label(folder, study_of, read):
    records, aside, _ = read(study_of(DATA + PATIENT + WINDOWS, **SIGNAL), folder[0])
    assert not aside
    assert [(r.key, r.patient, r.stratum) for r in records] == [
        (f"a.npz:X:{row}@{start}", "aabb"[row], row % 2) for row in range(4) for start in (0, 8, 16)
    ]
    assert {(r.main.shape, r.sampling_rate) for r in records} == {((2, 8), 4.0)}


def test_recordings_shorter_than_the_window_count_as_lost_recordings(folder, study_of, read):
    place, write = folder
    write("b.npz", 1, 7)
    study = study_of(DATA + PATIENT + WINDOWS + "unreadable-share = 0.2\n", **SIGNAL)
    _, aside, _ = read(study, place)
    assert [(a.key, a.reason) for a in aside] == [
        ("b.npz:X:0", "the recording is shorter than the window")
    ]
    # One of thirteen windows and recordings would be few, one of five recordings is not.
    strict = study_of(DATA + PATIENT + WINDOWS + "unreadable-share = 0.1\n", **SIGNAL)
    with pytest.raises(CohortError, match="1 of 5 recordings cannot be read"):
        read(strict, place)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WINDOWS, "data.windows: several examples come from one patient then"),
        (PATIENT + WINDOWS + "max-per-patient = 3\n", "data.max-per-patient: 3 cannot be combined"),
        (PATIENT + WINDOWS + "patient-median = true\n", "windows of a recording do not have"),
        (PATIENT + "windows = { length = 0 }\n", r"data.windows.length"),
        (PATIENT + "windows = { length = 1, stride = -1 }\n", r"data.windows.stride"),
        (PATIENT + "windows = { stride = 1 }\n", r"data.windows.length: this key is required"),
        (PATIENT + "windows = 4.0\n", r"data.windows"),
    ],
)
def test_windows_that_make_no_sense_are_refused(study_of, text, message):
    with pytest.raises(StudyError, match=message):
        study_of(DATA + text, **SIGNAL)
