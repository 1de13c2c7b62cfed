"""Whatever is done to a log afterwards is found, and where; hypothesis looks for what is not."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from wardround_shared.audit_log import AuditLog, Head, head, verify
from wardround_shared.audit_log.line import canonical, hash_of
from wardround_shared.errors import AuditError

LINES = 6


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Lines of a sound log, each with its end."""
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    log = AuditLog(path, now=lambda: datetime(2027, 3, 1, tzinfo=UTC))
    for number in range(LINES):
        log.append("trained", site="north", round=number, epsilon=0.5 * number)
    return path.read_bytes().splitlines(keepends=True)


@pytest.fixture
def checked(tmp_path):
    """Faults of a log of these bytes."""

    def faults(content, known=None):
        path = tmp_path / "audit.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else b"".join(content))
        return verify(path, known=known)

    return faults


with_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@with_fixtures
@given(st.data())
def test_any_byte_that_is_edited_is_found_on_its_line(written, checked, data):
    content = bytearray(b"".join(written))
    place = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255))
    assume(byte != content[place])
    line = content[:place].count(b"\n") + 1
    content[place] = byte
    faults = checked(bytes(content))
    assert faults
    assert faults[0].startswith(f"Line {line} ")


@with_fixtures
@given(st.data())
def test_any_piece_that_is_taken_out_is_found(written, checked, data):
    content = b"".join(written)
    start = data.draw(st.integers(0, len(content) - 1))
    # Whole lines off the end leave a shorter log that is sound, which only a head can tell.
    end = data.draw(st.integers(start + 1, len(content)))
    left = content[:start] + content[end:]
    assume(not (end == len(content) and (not left or left.endswith(b"\n"))))
    assert checked(left)


@with_fixtures
@given(number=st.integers(0, LINES - 2))
def test_a_line_that_is_removed_is_found(written, checked, number):
    (fault,) = checked([*written[:number], *written[number + 1 :]])
    assert fault.startswith(f"Line {number + 1} has the number {number + 2}")


@with_fixtures
@given(one=st.integers(0, LINES - 1), other=st.integers(0, LINES - 1))
def test_lines_that_are_swapped_are_found(written, checked, one, other):
    assume(one < other)
    lines = list(written)
    lines[one], lines[other] = lines[other], lines[one]
    assert checked(lines)[0].startswith(f"Line {one + 1} ")


@with_fixtures
@given(copied=st.integers(0, LINES - 1), place=st.integers(0, LINES))
def test_a_line_that_is_inserted_is_found(written, checked, copied, place):
    lines = [*written[:place], written[copied], *written[place:]]
    assert checked(lines)


@with_fixtures
@given(number=st.integers(0, LINES - 2), round_=st.integers(0, 10**6))
def test_a_line_that_is_written_anew_with_its_hash_is_found_by_the_next(
    written, checked, number, round_
):
    content = json.loads(written[number])
    assume(content["round"] != round_)
    content["round"] = round_
    content["hash"] = hash_of(content)
    lines = [*written[:number], canonical(content) + b"\n", *written[number + 1 :]]
    (fault,) = checked(lines)
    assert fault.startswith(f"Line {number + 2} does not follow")


def test_one_edit_is_one_fault(written, checked):
    lines = [*written[:2], written[2].replace(b"north", b"south"), *written[3:]]
    assert checked(lines) == ("Line 3 was edited or damaged: its content does not give its hash.",)


# --- the end of a log ------------------------------------------------------------------------


def test_a_tail_that_is_cut_off_whole_is_found_with_a_head_only(written, checked):
    known = Head(number=LINES, hash=json.loads(written[-1])["hash"])
    assert checked(written, known) == ()
    assert checked(written[:-2]) == ()
    (fault,) = checked(written[:-2], known)
    assert f"Line {LINES} was there" in fault
    assert f"ends after line {LINES - 2}" in fault


def test_a_log_that_was_written_anew_is_found_with_a_head_only(written, checked, tmp_path):
    other = AuditLog(tmp_path / "other.jsonl")
    for number in range(LINES + 2):
        other.append("trained", site="south", round=number)
    content = (tmp_path / "other.jsonl").read_bytes()
    assert checked(content) == ()
    (fault,) = checked(content, Head(number=3, hash=json.loads(written[2])["hash"]))
    assert "Line 3 is another one" in fault


def test_a_head_of_long_ago_still_holds(written, checked):
    assert checked(written, Head(number=2, hash=json.loads(written[1])["hash"])) == ()


@pytest.mark.parametrize("text", ["", "3", "x:" + "0" * 64, "0:" + "0" * 64, "3:" + "0" * 63])
def test_what_is_no_head_is_refused(text):
    with pytest.raises(AuditError, match="no head"):
        Head.parse(text)


def test_a_head_is_read_as_it_is_written(written, tmp_path):
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(written))
    assert Head.parse(f" {head(path)}\n") == head(path)
    path.write_bytes(b"".join(written)[:-1])
    with pytest.raises(AuditError, match=f"line {LINES}"):
        head(path)


def test_no_log_and_an_empty_one_are_faults(tmp_path, checked):
    assert "no audit log here" in verify(tmp_path / "nothing")[0]
    assert "no line in this log" in checked(b"")[0]


# --- what nobody of us writes ----------------------------------------------------------------


def chained(*contents):
    """A log of these lines, with numbers and hashes that fit."""
    lines, before = [], "0" * 64
    for number, content in enumerate(contents, start=1):
        whole = {
            "number": number,
            "time": "2027-03-01T00:00:00.000+00:00",
            "event": "started",
            "previous": before,
        } | content
        before = whole["hash"] = hash_of(whole)
        lines.append(canonical(whole) + b"\n")
    return lines


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"patient": "jane"}, "its field 'patient'"),
        ({"site": "a\nb"}, "its field 'site'"),
        ({"event": "noted"}, "its event"),
        ({"event": ["started"]}, "its event"),
        ({"time": "2027-03-01T00:00:00"}, "its time"),
        ({"time": "2027-03-01T00:00:00+02:00"}, "its time"),
        ({"time": 3}, "its time"),
    ],
)
def test_a_line_that_this_software_cannot_write_is_found(checked, content, words):
    (fault,) = checked(chained({}, content, {}))
    assert fault.startswith("Line 2 cannot have been written")
    assert words in fault


@pytest.mark.parametrize(
    "line", [b"\n", b"[]\n", b"{}\n", b'{"a":NaN}\n', b"[" * 9000 + b"\n", b"1" * 5000 + b"\n"]
)
def test_a_line_that_is_none_is_a_fault_and_no_crash(written, checked, line):
    faults = checked([*written[:1], line, *written[1:]])
    assert faults[0].startswith("Line 2 ")


@pytest.mark.parametrize("spaced", [b'{"a": 1', b' {"a":1'])
def test_another_spelling_of_the_same_is_a_fault(written, checked, spaced):
    wider = written[1].replace(b'":', b'": ', 1) if b": " in spaced else b" " + written[1]
    assert json.loads(wider) == json.loads(written[1])
    assert checked([written[0], wider, *written[2:]])[0].startswith("Line 2 was edited")
