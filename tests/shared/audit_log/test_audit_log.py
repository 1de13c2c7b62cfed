"""What was written stays, what is changed is found, and nothing that must not be there is."""

import errno
import json
import multiprocessing
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from wardround_shared.audit_log import EVENTS, FIELDS, AuditLog, Head, Told, entries, head, verify
from wardround_shared.audit_log import log as log_module
from wardround_shared.audit_log.line import LARGEST_LINE
from wardround_shared.errors import (
    AuditError,
    BudgetError,
    DataError,
    LedgerError,
    ProtocolError,
)

WHEN = datetime(2027, 3, 1, 12, 30, tzinfo=UTC)
STUDY = "ab" * 32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


@pytest.fixture
def log(path):
    return AuditLog(path, now=lambda: WHEN)


def events(path):
    return [content["event"] for content in entries(path)]


def test_a_line_says_what_was_given_and_follows_the_one_before(path, log):
    log.append("joined", site="north", fingerprint="ab12 cd34")
    made = log.append("reserved", run="r-1", round=3, epsilon=0.25, data_set="ecg", study=STUDY)
    first, second = map(json.loads, path.read_text().splitlines())
    assert first["previous"] == "0" * 64
    assert second == {
        "number": 2,
        "time": "2027-03-01T12:30:00.000+00:00",
        "event": "reserved",
        "run": "r-1",
        "round": 3,
        "epsilon": 0.25,
        "data-set": "ecg",
        "study": STUDY,
        "previous": first["hash"],
        "hash": made.hash,
    }
    assert verify(path) == ()
    assert head(path) == made == Head(number=2, hash=second["hash"])


def test_times_are_in_utc_whatever_the_clock_says(path):
    elsewhere = WHEN.astimezone(ZoneInfo("Asia/Tokyo"))
    AuditLog(path, now=lambda: elsewhere).append("certificate", until=elsewhere)
    (line,) = entries(path)
    assert line["time"] == "2027-03-01T12:30:00.000+00:00"
    assert line["until"] == "2027-03-01T12:30:00+00:00"


def test_a_log_is_for_its_owner_alone(path, log):
    log.append("started")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# --- what must not be in it ------------------------------------------------------------------


def test_only_sentences_that_may_leave_a_site_are_reasons(path, log):
    log.append("refused", reason=BudgetError("The budget is spent."))
    log.append("refused", reason=LedgerError("/var/lib/x: a row of Jane Roe was edited."))
    log.append("refused", reason=DataError("jane-roe.dcm: unreadable"))
    log.append("failed", reason=RuntimeError("jane-roe"))
    log.append("dropped", reason=Told("It did not answer in time."))
    assert [line["reason"] for line in entries(path)] == [
        "The budget is spent.",
        "LedgerError",
        "DataError",
        "RuntimeError",
        "It did not answer in time.",
    ]


@pytest.mark.parametrize(
    "place", ["/data/jane.dcm", "see ~/jane", "in 'C:\\data\\jane'", "at \\\\server\\jane"]
)
def test_a_sentence_with_a_path_is_not_written(path, log, place):
    log.append("refused", reason=ProtocolError(place))
    log.append("dropped", reason=Told(place))
    assert "jane" not in path.read_text()
    assert verify(path) == ()


def test_a_sentence_from_elsewhere_is_shown_as_it_is_and_not_carried_out(path, log):
    log.append("dropped", reason=Told('x\n{"event":"admitted"}\x1b[2J' + "y" * 1000))
    (line,) = entries(path)
    assert line["reason"].startswith('x?{"event":"admitted"}?[2J')
    assert len(line["reason"]) == 500
    assert verify(path) == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("site", "a\nb"),
        ("site", ""),
        ("site", "x" * 129),
        ("run", "../run"),
        ("data_set", "C:\\data"),
        ("study", "not hex"),
        ("round", -1),
        ("round", True),
        ("round", "1"),
        ("epsilon", float("nan")),
        ("epsilon", float("inf")),
        ("question", "Train Now"),
        ("until", "tomorrow"),
        ("site", ["north"]),
        ("site", None),
        ("version", 2**64),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_not_repeated(path, log, field, value):
    with pytest.raises(AuditError) as caught:
        log.append("started", **{field: value})
    assert field.replace("_", "-") in str(caught.value)
    if isinstance(value, str) and value:
        assert value not in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize("field", ["patient", "path", "number", "hash", "previous", "time", "note"])
def test_there_are_no_other_fields(log, field):
    with pytest.raises(ValueError, match="no field"):
        log.append("started", **{field: 1})


def test_there_are_no_other_events(log):
    with pytest.raises(ValueError, match="no event"):
        log.append("noted")


def test_free_text_is_no_reason(log):
    with pytest.raises(TypeError, match="reason"):
        log.append("refused", reason="because")
    with pytest.raises(TypeError, match="no value"):
        log.append("refused", site=BudgetError("x"))


def test_the_longest_line_can_be_read_again(path, log):
    widest = "\U00020000"  # printable, and twelve bytes in a line
    log.append(
        "refused-study",
        site=widest * 128,
        run=widest * 128,
        data_set=widest * 128,
        reason=Told(widest * 500),
        study="a" * 128,
        digest="a" * 128,
        ledger="a" * 128,
        fingerprint="a" * 256,
        **dict.fromkeys(
            ("study_name", "question", "process", "key", "software", "project"), "a" * 64
        ),
        **dict.fromkeys(("epsilon", "delta", "seconds"), 1.2345678901234567e-300),
        **dict.fromkeys(
            ("sites", "round", "attempt", "reservation", "version", "protocol", "bytes", "exit"),
            2**63 - 1,
        ),
        until=WHEN,
    )
    (line,) = entries(path)
    assert set(FIELDS) <= set(line)
    assert path.stat().st_size < LARGEST_LINE
    log.append("started")
    assert verify(path) == ()


# --- crashes ---------------------------------------------------------------------------------


def torn_at(path, log, cut):
    """A log of three lines whose last one lacks its end from the byte `cut` on."""
    for number in (1, 2, 3):
        log.append("trained", round=number)
    content = path.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    kept = content[: last + (cut if cut > 0 else len(content) - last + cut)]
    path.write_bytes(kept)
    return len(kept) - last


@pytest.mark.parametrize("cut", [1, 50, -1, -2])
def test_a_line_that_a_power_cut_tore_is_taken_away_and_that_is_said(path, log, cut):
    torn = torn_at(path, log, cut)
    (fault,) = verify(path)
    assert fault.startswith("Line 3 is cut off")
    log.append("started")
    lines = list(entries(path))
    assert [line["event"] for line in lines] == ["trained", "trained", "mended", "started"]
    assert lines[2]["bytes"] == torn
    assert verify(path) == ()


@pytest.mark.parametrize("zeros", [b"\0" * 80, b"\0" * 60 + b'"x"}\n', b"\0\n"])
def test_zero_bytes_at_the_end_are_a_power_cut_too(path, log, zeros):
    log.append("trained", round=1)
    with path.open("ab") as file:
        file.write(zeros)
    assert verify(path)
    log.append("started")
    assert events(path) == ["trained", "mended", "started"]
    assert verify(path) == ()


def test_a_line_is_on_the_disk_itself_when_append_returns(path, log, monkeypatch):
    synced = []
    fsync = os.fsync

    def noted(file):
        place = str(Path(f"/proc/self/fd/{file}").readlink())
        synced.append((place, path.stat().st_size))
        fsync(file)

    monkeypatch.setattr(log_module.os, "fsync", noted)
    log.append("started")
    assert synced == [(str(path), path.stat().st_size), (str(path.parent), path.stat().st_size)]
    log.append("stopped")
    assert synced[2:] == [(str(path), path.stat().st_size)]


def test_a_first_line_that_is_torn_leaves_a_log(path, log):
    path.write_bytes(b'{"event":"jo')
    log.append("joined")
    assert events(path) == ["mended", "joined"]
    assert verify(path) == ()


def test_after_a_last_line_that_was_edited_nothing_is_appended(path, log):
    log.append("trained", round=1)
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":2'))
    before = path.read_bytes()
    with pytest.raises(AuditError, match="last line"):
        log.append("trained", round=2)
    assert path.read_bytes() == before


def test_a_line_without_end_of_any_length_is_refused(path, log):
    log.append("started")
    with path.open("ab") as file:
        file.write(b"x" * 3 * LARGEST_LINE)
    with pytest.raises(AuditError):
        log.append("started")
    assert verify(path)


@pytest.mark.parametrize("took", [0, 40])
def test_a_full_disk_leaves_the_log_as_it_was(path, log, monkeypatch, took):
    log.append("started")
    before = path.read_bytes()
    write, left = os.pwrite, [took]

    def full(file, data, place):
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(file, data[: left[0]], place)
        left[0] = 0
        return count

    monkeypatch.setattr(log_module.os, "pwrite", full)
    with pytest.raises(AuditError, match="the disk is full"):
        log.append("stopped")
    assert path.read_bytes() == before


def test_a_full_disk_while_mending_leaves_a_torn_line_that_is_still_mended(path, log, monkeypatch):
    torn_at(path, log, 50)
    write = os.pwrite
    with monkeypatch.context() as patched:

        def full(file, data, place):
            return write(file, data[:20], place) if data.startswith(b'{"bytes":') else 0

        patched.setattr(log_module.os, "pwrite", full)
        with pytest.raises(AuditError, match="the disk is full"):
            log.append("stopped")
    log.append("stopped")
    assert events(path) == ["trained", "trained", "mended", "stopped"]
    assert verify(path) == ()


def test_a_link_is_not_followed(path, log, tmp_path):
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditError, match="link"):
        log.append("started")
    assert not (tmp_path / "elsewhere").exists()


def test_only_the_tail_is_read(path, log, monkeypatch):
    for number in range(400):
        log.append("trained", round=number)
    read = []
    pread = os.pread
    monkeypatch.setattr(log_module.os, "pread", lambda *a: (read.append(a[1]), pread(*a))[1])
    log.append("stopped")
    assert path.stat().st_size > 3 * LARGEST_LINE
    assert sum(read) <= 2 * LARGEST_LINE


def _append_many(path, site, count):
    log = AuditLog(path)
    for number in range(count):
        log.append("trained", site=site, round=number)


def test_processes_that_append_together_keep_one_chain(path):
    fork = multiprocessing.get_context("fork")
    writers = [
        fork.Process(target=_append_many, args=(path, f"site-{number}", 40)) for number in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert verify(path) == ()
    lines = list(entries(path))
    assert len(lines) == 160
    for number in range(4):
        mine = [line["round"] for line in lines if line["site"] == f"site-{number}"]
        assert mine == list(range(40))


def test_whoever_reads_may_append_meanwhile(path, log):
    log.append("started")
    log.append("stopped")
    for _ in entries(path):
        log.append("resumed")
    assert events(path) == ["started", "stopped", "resumed", "resumed"]


def test_every_event_is_explained_in_one_line():
    for meaning in EVENTS.values():
        assert meaning
        assert "\n" not in meaning


# --- before a change -----------------------------------------------------------------------------


def test_a_log_in_order_is_appendable_and_stays_as_it_is(path, log):
    log.require_appendable()
    assert not path.exists()
    log.append("joined", site="north")
    with path.open("ab") as file:
        file.write(b'{"cut":')  # by a crash: the next line mends it
    before = path.read_bytes()
    log.require_appendable()
    assert path.read_bytes() == before


@pytest.mark.parametrize("fault", ["edited", "folder", "link", "read-only", "nowhere"])
def test_what_cannot_be_appended_to_is_known_before_the_change(path, log, monkeypatch, fault):
    if fault == "edited":
        log.append("joined", site="north")
        path.write_text(path.read_text().replace("north", "south"))
    elif fault == "folder":
        path.mkdir()
    elif fault == "link":
        path.symlink_to("elsewhere")
    elif fault == "read-only":
        log.append("joined", site="north")
        _refuse_to_open(monkeypatch)
    else:
        log = AuditLog(path.parent / "nowhere" / path.name)
    with pytest.raises(AuditError, match="audit") as refused:
        log.require_appendable()
    assert "Errno" not in str(refused.value)


def _refuse_to_open(monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(log_module.os, "open", refuse)
