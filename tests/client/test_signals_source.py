"""Signals in npz files: columns beside them, tables joined to them."""

import numpy as np
import pytest

from wardround_shared.errors import CohortError, DataError, StudyError

DATA = """
[data]
source = "signals"
arrays = ["*.npz"]
signal = "X"
sampling-rate = 50
join = [{ file = "people.csv", on = "record" }]
label = { column = "kind" }
patient = "who"
static = [
  { column = "gap", missing = ["-1"] },
  { column = "sex", kind = "categorical", categories = ["F", "M"] },
  { column = "gap", missing = ["-1"], form = "over-patient" },
]
"""
SIGNAL = {"task": "signal-classification"}


def write(folder, name, count, start=0, **arrays):
    signals = np.arange(count * 6, dtype=np.int16).reshape(count, 6) + start
    given = {
        "X": signals,
        "record": np.arange(count, dtype=np.int16),
        "kind": np.array(["absent", "present"] * count)[:count],
        "gap": np.full(count, 10, dtype=np.int32),
        "units": np.array("mV"),
    }
    np.savez(folder / name, **{**given, **arrays})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "people.csv").write_text("record,who,sex\n0,a,F\n1,a,M\n2.0,b,M\n")
    write(tmp_path, "a.npz", 3, gap=np.array([10, 30, -1]))
    write(tmp_path, "b.npz", 2, start=100, gap=np.array([20, 40]))
    return tmp_path


def test_columns_and_joined_tables_give_label_patient_and_statics(folder, study_of, read):
    records, aside, _ = read(study_of(DATA, **SIGNAL), folder)
    assert not aside
    assert [(r.patient, r.stratum) for r in records] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("a", 0),
        ("a", 1),
    ]
    np.testing.assert_array_equal(
        [r.static for r in records],
        [[10, 0, 0.4], [30, 1, 1.2], [np.nan, 1, np.nan], [20, 0, 0.8], [40, 1, 1.6]],
    )
    assert {(r.main.shape, r.main.dtype, r.sampling_rate) for r in records} == {
        ((1, 6), np.dtype(np.float32), 50.0)
    }
    np.testing.assert_array_equal(records[4].main[0], np.arange(106, 112))


def test_several_channels_keep_their_order(folder, study_of, read):
    (folder / "b.npz").unlink()
    write(folder, "a.npz", 3, X=np.arange(24.0).reshape(3, 2, 4))
    records, _, _ = read(study_of(DATA, **SIGNAL), folder)
    np.testing.assert_array_equal(records[1].main, np.arange(8.0, 16).reshape(2, 4))


def test_a_number_that_is_none_sets_the_row_aside(folder, study_of, read):
    write(folder, "b.npz", 2, gap=np.array([np.nan, 1.0]))
    _, aside, _ = read(study_of(DATA, **SIGNAL), folder)
    assert [(a.key, a.reason) for a in aside] == [
        ("b.npz:X:0", "column gap holds no finite number")
    ]


def lose(folder, whole, lost):
    """So many whole files of three beats each, and so many that are cut."""
    for old in folder.glob("*.npz"):
        old.unlink()
    for number in range(whole + lost):
        write(folder, f"{number:02}.npz", 3)
    for path in sorted(folder.glob("*.npz"))[:lost]:
        path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("files", "share", "stops"),
    [
        ((3, 1), 0.05, True),
        ((19, 1), 0.05, False),
        ((18, 1), 0.05, True),
        ((3, 1), 0.25, False),
        ((2, 2), 0.25, True),
        ((1, 3), 1.0, False),
    ],
)
def test_the_share_of_lost_files_is_held_to_the_limit(
    *, folder, study_of, read, files, share, stops
):
    whole, lost = files
    lose(folder, whole, lost)
    study = study_of(DATA + f"unreadable-share = {share}\n", **SIGNAL)
    if stops:
        sentence = (
            rf"the data: {lost} of {whole + lost} npz files cannot be read \(00\.npz for one\).*"
            rf"truncated \({lost} times\).*data\.unreadable-share = {share}\.$"
        )
        with pytest.raises(CohortError, match=sentence):
            read(study, folder)
        return
    records, aside, _ = read(study, folder)
    assert (len(records), len(aside)) == (3 * whole, lost)


def test_files_of_one_beat_each_count_as_beats(folder, study_of, read):
    lose(folder, 0, 0)
    for name in "abcd":
        write(folder, f"{name}.npz", 1)
    (folder / "d.npz").write_bytes(b"cut")
    records, aside, _ = read(study_of(DATA, **SIGNAL), folder)
    assert (len(records), [a.key for a in aside]) == (3, ["d.npz"])


def test_arrays_of_different_lengths_are_refused(folder, study_of, read):
    write(folder, "b.npz", 2, gap=np.array([1, 2, 3]))
    with pytest.raises(DataError, match=r"b\.npz: the arrays differ in length .*gap 3"):
        read(study_of(DATA, **SIGNAL), folder)


def test_a_missing_signal_array_names_those_that_there_are(folder, study_of, read):
    text = DATA.replace('signal = "X"', 'signal = "Y"')
    with pytest.raises(DataError, match="no array matches 'Y'; the arrays are X, record, kind"):
        read(study_of(text, **SIGNAL), folder)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ('["F", "M"] }', '["F", "M"], form = "variation" }', "only a numeric column has another"),
        ('patient = "who"\n', "", r'form: "over-patient" has no effect without a patient column'),
        ('"over-patient"', '"over-all"', "data.static.2.form"),
    ],
)
def test_a_form_that_cannot_be_is_refused(study_of, before, after, sentence):
    with pytest.raises(StudyError, match=sentence):
        study_of(DATA.replace(before, after), **SIGNAL)


def test_the_patients_median_comes_as_further_channels(folder, study_of, read):
    study = study_of(DATA + "patient-median = true\n", **SIGNAL)
    records, _, _ = read(study, folder)
    assert {r.main.shape for r in records} == {(2, 6)}
    first = np.arange(6.0)
    # Patient a has two signals in the first file and two in the second, b has one.
    np.testing.assert_array_equal(records[0].main, [first, first + 3])
    np.testing.assert_array_equal(records[1].main, [first + 6, first + 3])
    np.testing.assert_array_equal(records[2].main, [first + 12, first + 12])
    np.testing.assert_array_equal(records[4].main[1], first + 103)


def test_a_row_that_is_left_out_still_counts_for_what_is_usual(folder, study_of, read):
    text = DATA + 'patient-median = true\nwhere = { kind = ["absent"] }\n'
    records, _, _ = read(study_of(text, **SIGNAL), folder)
    assert [r.patient for r in records] == ["a", "b", "a"]
    np.testing.assert_array_equal(records[0].main[1], np.arange(6.0) + 3)
    assert records[0].static[2] == 0.4
