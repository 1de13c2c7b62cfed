"""A stored answer is given as it was, to the question that it answers, or not at all."""

import dataclasses
import os
import stat

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wardround_client.answer_files import AnswerFiles
from wardround_client.answers import AnsweredOnce, Asked
from wardround_shared.errors import PrivacyError, ProtocolError
from wardround_shared.messages import EVALUATE, STATISTICS, TRAIN

RUN = "run-1"
FORMED = {
    "delta": np.array([0.5, -0.25, 3.0], np.float32),
    "weight": np.array([7.0]),
    "counts": np.arange(4.0),
}


@pytest.fixture
def files(tmp_path):
    return AnswerFiles(folder=tmp_path / "home" / "runs" / RUN / "answers", run=RUN, study_id="ab")


def asked(number=1, *, kind=TRAIN, digest=b"d" * 32, question=None):
    question = bytes([number]) * 32 if question is None else question
    return Asked(run=RUN, kind=kind, round=number, question=question, digest=digest)


def store(files, what, formed=FORMED):
    with files.turn(RUN):
        files.store(what, formed)


def found(files, what):
    with files.turn(RUN):
        return files.find(what)


def same(one, other):
    assert list(one) == list(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        assert array.shape == other[name].shape
        assert array.tobytes() == other[name].tobytes()


vectors = st.sampled_from([np.float32, np.float64, np.uint32]).flatmap(
    lambda kind: arrays.arrays(kind, st.integers(0, 40))
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(formed=st.dictionaries(st.sampled_from("abc"), vectors, max_size=3))
def test_what_was_stored_is_found_bit_for_bit_and_can_be_masked_in_place(files, formed):
    store(files, asked(), formed)
    again = dataclasses.replace(files)
    stored = found(again, asked())
    assert stored.failure is None
    same(formed, stored.formed)
    for array in stored.formed.values():
        assert array.flags.writeable
        assert array.flags.aligned
        array[...] = 1
    same(formed, found(again, asked()).formed)


def test_nothing_is_found_before_it_is_stored(files):
    assert found(files, asked()) is None


def test_a_failure_is_found_with_its_words(files):
    with files.turn(RUN):
        files.failed(asked(), "The training diverged.")
    stored = found(files, asked())
    assert stored.failure == "The training diverged."
    assert stored.formed == {}


def test_folders_and_files_are_for_the_sites_user_alone(files, tmp_path):
    before = os.umask(0)
    try:
        store(files, asked())
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "home").rglob("*")}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


# --- not the question that was answered ---------------------------------------------------------


def test_another_model_is_refused(files):
    store(files, asked())
    with pytest.raises(ProtocolError, match="another model"):
        found(files, asked(digest=b"e" * 32))


def test_a_request_that_nobody_has_taken_the_digest_of_is_refused(files):
    with pytest.raises(ValueError, match="without a digest"):
        found(files, asked(digest=b""))


@pytest.mark.parametrize(
    "changes", [{"kind": EVALUATE}, {"round": 2}, {"question": b"?" * 32}], ids=str
)
def test_a_file_under_the_name_of_another_question_is_refused(files, changes):
    store(files, asked())
    other = dataclasses.replace(asked(), **changes)
    (file,) = files.folder.glob("*.answer")
    file.rename(files.folder / f"{other.question.hex()}.answer")
    with pytest.raises(PrivacyError, match="damaged"):
        found(files, other)


@pytest.mark.parametrize("changes", [{"run": "run-2"}, {"study_id": "cd"}], ids=str)
def test_a_file_of_another_run_or_study_is_refused(files, changes):
    store(files, asked())
    other = dataclasses.replace(files, **changes)
    with other.turn(other.run), pytest.raises(PrivacyError, match="damaged"):
        other.find(asked())


def test_another_run_has_no_turn(files):
    with pytest.raises(ProtocolError, match="another run"), files.turn("run-2"):
        pytest.fail("it had")
    assert not files.folder.exists()


# --- damage -------------------------------------------------------------------------------------


def test_a_file_torn_at_any_byte_is_refused(files):
    store(files, asked(), {"words": np.arange(5, dtype=np.uint32)})
    (file,) = files.folder.glob("*.answer")
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(PrivacyError, match="damaged"):
            found(files, asked())
    for longer in (whole + b"\0", whole + whole):
        file.write_bytes(longer)
        with pytest.raises(PrivacyError, match="damaged"):
            found(files, asked())
    file.write_bytes(whole)
    assert found(files, asked()) is not None


def test_a_byte_changed_anywhere_is_refused(files):
    store(files, asked(), {"words": np.arange(5, dtype=np.uint32)})
    (file,) = files.folder.glob("*.answer")
    whole = file.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        file.write_bytes(changed)
        with pytest.raises(PrivacyError, match="damaged"):
            found(files, asked())


def test_a_file_that_cannot_be_read_is_no_missing_one(files):
    store(files, asked())
    (file,) = files.folder.glob("*.answer")
    file.unlink()
    file.mkdir()
    with pytest.raises(PrivacyError, match="damaged"):
        found(files, asked())


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_breaks_off_leaves_nothing_and_is_cleaned_up(files, monkeypatch, step):
    def full(*_):
        raise OSError(28, "No space left on device")

    with files.turn(RUN):
        pass  # the folder is made
    with monkeypatch.context() as patched:
        patched.setattr(step, full)
        with pytest.raises(PrivacyError, match="No space left on device"):
            store(files, asked())
    assert found(files, asked()) is None
    assert [path.suffix for path in files.folder.iterdir()] == [".unfinished"]
    store(files, asked(2))
    assert [path.suffix for path in files.folder.iterdir()] == [".answer"]


# --- disk use -----------------------------------------------------------------------------------


def test_two_rounds_are_kept_and_of_the_others_that_they_were_answered(files):
    first = asked(0, kind=STATISTICS)
    store(files, first)
    for number in range(1, 8):
        store(files, asked(number))
        kept = sorted(files.folder.glob("*.answer"))
        assert len(kept) == 2
    for number in (6, 7):
        same(FORMED, found(files, asked(number)).formed)
    for what in (first, asked(1), asked(5)):
        with pytest.raises(ProtocolError, match="kept for two rounds"):
            found(files, what)
        with pytest.raises(ProtocolError, match="another model"):
            found(files, dataclasses.replace(what, digest=b"e" * 32))
    for tombstone in files.folder.glob("*.answered"):
        assert tombstone.stat().st_size < 1000


def test_all_sums_of_a_round_are_kept(files):
    sums = [asked(0, kind=STATISTICS, question=bytes([place]) * 32) for place in (100, 101, 102)]
    for what in (*sums, asked(1)):
        store(files, what)
    for what in sums:
        assert found(files, what) is not None


def test_a_damaged_tombstone_is_refused(files):
    for number in (1, 2, 3):
        store(files, asked(number))
    (tombstone,) = files.folder.glob("*.answered")
    tombstone.write_bytes(tombstone.read_bytes()[:-1])
    with pytest.raises(PrivacyError, match="damaged"):
        found(files, asked(1))


def test_a_damaged_answer_stays_for_a_person_to_look_at(files):
    store(files, asked(1))
    (file,) = files.folder.glob("*.answer")
    file.write_bytes(b"")
    for number in (2, 3, 4):
        store(files, asked(number))
    assert file.read_bytes() == b""


# --- in one process -----------------------------------------------------------------------------


def test_without_files_a_question_is_asked_once():
    once = AnsweredOnce()
    assert once.find(asked(0, kind=STATISTICS)) is None
    once.store(asked(0, kind=STATISTICS), FORMED)
    once.failed(asked(1, kind=STATISTICS), "failed")
    for number in (0, 1):
        with pytest.raises(ProtocolError, match="each is answered once"):
            once.find(asked(number, kind=STATISTICS))
    assert once.find(asked(2, kind=STATISTICS)) is None


def test_without_files_training_is_left_to_the_rounds():
    once = AnsweredOnce()
    once.store(asked(), FORMED)
    assert once.find(asked()) is None
