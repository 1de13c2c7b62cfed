"""Whatever is done to a ledger's files behind the site's back, it is not taken for an account.

Each test is one attack by somebody who can write every file and has not read the key.
"""

import json
import os
import shutil
import sqlite3
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledgers import COST, ledger_of_three, purpose, reserve

from wardround_client.ledger import Ledger, chain, store, verify
from wardround_client.ledger.anchor import Files
from wardround_shared.errors import LedgerError


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "north"
    ledger_of_three(home)
    return home


@pytest.fixture
def files(home):
    return Files(home=home)


def refused(home, words, *, site="north"):
    """The ledger is refused, and `verify` says why in as many sentences as there are faults."""
    faults = verify(home, site=site)
    said = [fault.replace(str(home), "") for fault in faults]  # the folder's name says too much
    assert any(words in fault for fault in said), said
    assert all(fault.endswith(".") and "\n" not in fault for fault in faults)
    with pytest.raises(LedgerError, match=r"ledger\.md|cut off|damaged|seal") as caught:
        Ledger.open(home, site=site)
    assert not type(caught.value).may_leave_site
    return faults


def edit(home, *statements):
    """Change the database as somebody does who knows SQLite: past the triggers, which stay."""
    with closing(sqlite3.connect(Files(home=home).database, isolation_level=None)) as database:
        triggers = database.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:
            database.execute(f"DROP TRIGGER {name}")
        for statement, *values in statements:
            database.execute(statement, values)
        for _, sql in triggers:
            database.execute(sql)


def copy_of_row_three(number):
    columns = ", ".join(name for name in chain.COLUMNS if name not in {"number", "run"})
    copy = f"SELECT {number}, 'other', {columns} FROM entries WHERE number = 3"
    return f"INSERT INTO entries (number, run, {columns}) {copy}"


# --- rows ------------------------------------------------------------------------------------

EDITS = {
    "number": 9,
    "time": "2020-01-01T00:00:00.000000+00:00",
    "study": "another",
    "study_id": "00" * 32,
    "run": "another",
    "round": 99,
    "data_set": "another",
    "population": "another",
    "unit": "record",
    "mechanism": "none",
    "parameters": '{"noise_multiplier": 400.0, "sample_rate": 0.05, "steps": 5}',
    "previous": bytes(32),
    "state": "reserved",
    "hash": bytes(32),
    "seal": bytes(32),
}


def test_every_column_is_attacked():
    assert tuple(EDITS) == chain.COLUMNS


@pytest.mark.parametrize("column", EDITS)
@pytest.mark.parametrize("number", [1, 2])
def test_an_edited_column_is_noticed(home, column, number):
    edit(home, (f"UPDATE entries SET {column} = ? WHERE number = ?", EDITS[column], number))
    faults = refused(home, f"reservation {number}" if column != "number" else "is missing")
    assert len(faults) <= 4, "one edit is not told once for each row behind it"


@pytest.mark.parametrize("column", EDITS)
def test_a_value_of_another_type_is_noticed(home, column):
    value = b"\xff\xfe" if not isinstance(EDITS[column], bytes) else "text"
    if column == "number":
        return  # SQLite itself lets no other type be a key
    edit(home, (f"UPDATE entries SET {column} = ? WHERE number = 2", value))
    refused(home, "reservation 2 was edited")


def test_text_that_is_no_text_is_noticed(home):
    edit(home, ("UPDATE entries SET run = CAST(x'fffe' AS TEXT) WHERE number = 2",))
    refused(home, "the database refuses")


@pytest.mark.parametrize("key", ["without", "with another"])
def test_a_chain_that_was_mended_without_the_key_is_noticed(home, files, key):
    """Row 2 is made cheaper, and every hash from there on is right again."""
    with closing(sqlite3.connect(files.database)) as database:
        rows = store.rows(database)
    forged, previous = [], chain.named(rows[0])["hash"]
    for row in rows[1:]:
        entry = chain.entry_of(row)
        cheap = type(entry.cost)(noise_multiplier=400.0, sample_rate=0.05, steps=5)
        new = chain.new_row(
            number=entry.number,
            time=entry.time,
            purpose=entry.purpose,
            cost=cheap,
            previous=previous,
            key=os.urandom(32),
        )
        if key == "without":
            new = (*new[:-1], row[-1])
        previous = chain.named(new)["hash"]
        forged.append(new)
    edit(
        home,
        ("DELETE FROM entries WHERE number > 1",),
        *((store._INSERT, *row) for row in forged),
    )
    faults = refused(home, "do not fit its seal")
    assert not any("its content does not fit its hash" in fault for fault in faults)
    assert any("the anchor knows" in fault for fault in faults)


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "reservation 1 is missing"), (2, "reservation 2 is missing"), (3, "the last 1 of 3")],
)
def test_a_deleted_row_is_noticed(home, number, words):
    edit(home, ("DELETE FROM entries WHERE number = ?", number))
    refused(home, words)


def test_a_deleted_row_is_noticed_when_the_others_are_renumbered(home):
    edit(
        home,
        ("DELETE FROM entries WHERE number = 2",),
        ("UPDATE entries SET number = 2 WHERE number = 3",),
    )
    refused(home, "reservation 2 does not follow the one before it")


def test_an_emptied_ledger_is_noticed(home):
    edit(home, ("DELETE FROM entries",))
    refused(home, "the last 3 of 3 reservations are missing")


@pytest.mark.parametrize("number", [0, -5, -(2**63), 4])
def test_an_inserted_row_is_noticed(home, number):
    """A copy of a sound row, in any place."""
    edit(home, (copy_of_row_three(number),))
    refused(home, "reservation")


def test_exchanged_rows_are_noticed(home):
    edit(
        home,
        ("UPDATE entries SET number = 9 WHERE number = 1",),
        ("UPDATE entries SET number = 1 WHERE number = 2",),
        ("UPDATE entries SET number = 2 WHERE number = 9",),
    )
    refused(home, "reservation 1")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET site = 'south'",
        "UPDATE ledger SET ledger_id = '00'",
        "UPDATE ledger SET created = '2020'",
        "UPDATE ledger SET site = x'00'",
        "DELETE FROM ledger",
        "INSERT INTO ledger VALUES ('00', 'north', '2020')",
        "CREATE TRIGGER forget AFTER INSERT ON entries BEGIN DELETE FROM entries; END",
        "DROP TRIGGER no_delete",
        "CREATE TABLE more (a)",
        "DROP TABLE entries",
        "ALTER TABLE entries ADD COLUMN note TEXT",
    ],
)
def test_a_changed_title_or_table_is_noticed(home, statement):
    with closing(sqlite3.connect(Files(home=home).database)) as database, database:
        database.execute(statement)
    refused(home, "ledger.db")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE number = 3",
        "UPDATE entries SET parameters = '{}' WHERE number = 3",
        "UPDATE entries SET number = 7 WHERE number = 3",
        "UPDATE entries SET state = 'reserved' WHERE number = 1",
    ],
)
def test_a_slip_of_the_hand_does_no_harm(home, statement):
    with (
        closing(sqlite3.connect(Files(home=home).database)) as database,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        database.execute(statement)
    assert verify(home) == []


# --- older copies ----------------------------------------------------------------------------


def put_back(source, target):
    """Old content in the same file: the inode stays."""
    target.write_bytes(source)


@pytest.mark.parametrize("by", ["content", "rename"])
@pytest.mark.parametrize("change", ["reserve", "commit"])
def test_an_old_copy_of_the_database_is_noticed(home, files, tmp_path, by, change):
    old = files.database.read_bytes()
    ledger = Ledger.open(home, site="north", durable=False)
    if change == "reserve":
        reserve(ledger, 4)
    else:
        ledger.commit(3)
    if by == "content":
        put_back(old, files.database)
        refused(home, "an older copy of the database was put back")
    else:
        (tmp_path / "old").write_bytes(old)
        (tmp_path / "old").replace(files.database)
        refused(home, "this is a copy")
    for use in (lambda: reserve(ledger, 5), lambda: ledger.history("cardiology")):
        with pytest.raises(LedgerError):
            use()


@pytest.fixture
def logged(home, files):
    """Database and log before and after one more reservation, while a reader keeps the log."""
    with closing(sqlite3.connect(files.database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entries").fetchone()
        wal = files.database.with_name("ledger.db-wal")
        reserve(Ledger.open(home, site="north"), 4)
        before = files.database.read_bytes(), wal.read_bytes()
        reserve(Ledger.open(home, site="north"), 5)
        after = files.database.read_bytes(), wal.read_bytes()
    assert before[0] == after[0], "both rows are in the log only"
    assert not wal.exists()
    return before, after


def lay(files, database, wal):
    put_back(database, files.database)
    if wal is not None:
        files.database.with_name("ledger.db-wal").write_bytes(wal)


def test_a_log_that_a_crash_has_left_belongs_to_the_ledger(home, files, logged):
    lay(files, *logged[1])
    assert verify(home) == []
    assert len(Ledger.open(home, site="north").entries()) == 5


def test_a_removed_log_is_noticed(home, files, logged):
    lay(files, logged[1][0], None)
    refused(home, "the last 2 of 5 reservations are missing")


def test_an_old_database_with_its_old_log_is_noticed(home, files, logged):
    lay(files, *logged[0])
    refused(home, "the last 1 of 5 reservations are missing")


def test_a_log_cut_off_anywhere_is_noticed(home, files, logged):
    database, wal = logged[1]
    for length in [*range(0, len(wal), 997), len(wal) - 1]:
        lay(files, database, wal[:length])
        refused(home, "reservations are missing")


def test_an_old_anchor_hides_nothing(home, files):
    old = files.anchor.read_bytes()
    reserve(Ledger.open(home, site="north"), 4)
    put_back(old, files.anchor)
    assert len(Ledger.open(home, site="north").entries()) == 4


# --- copies and strangers --------------------------------------------------------------------


def test_a_copied_home_is_refused_and_the_first_one_goes_on(home, tmp_path):
    shutil.copytree(home, tmp_path / "copy")
    refused(tmp_path / "copy", "this is a copy")
    assert reserve(Ledger.open(home, site="north"), 4) == 4


def test_a_restored_home_is_refused(home, tmp_path):
    shutil.copytree(home, tmp_path / "backup")
    reserve(Ledger.open(home, site="north"), 4)
    shutil.rmtree(home)
    shutil.copytree(tmp_path / "backup", home)
    refused(home, "cannot be copied, moved to another disk or restored")


def test_the_ledger_of_another_site_is_refused(home):
    refused(home, "this is the ledger of the site 'north', not of 'south'", site="south")


@pytest.mark.parametrize("by", ["content", "rename"])
def test_the_database_of_another_site_is_refused(home, files, tmp_path, by):
    ledger_of_three(tmp_path / "south", site="south")
    other = Files(home=tmp_path / "south").database
    if by == "content":
        put_back(other.read_bytes(), files.database)
    else:
        other.replace(files.database)
    refused(home, "this is the database of another ledger, of the site 'south'")


def test_another_ledger_of_the_same_site_is_refused(home, files, tmp_path):
    ledger_of_three(tmp_path / "again")
    put_back(Files(home=tmp_path / "again").database.read_bytes(), files.database)
    refused(home, "this is the database of another ledger")


@pytest.mark.parametrize("part", ["key", "anchor"])
def test_the_key_or_anchor_of_another_ledger_is_refused(home, files, tmp_path, part):
    ledger_of_three(tmp_path / "south", site="south")
    shutil.copy(getattr(Files(home=tmp_path / "south"), part), getattr(files, part))
    refused(home, "the anchor's seal does not fit")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ledger_id", "00"),
        ("site", "south"),
        ("inode", 1),
        ("inode", "as text"),
        ("count", 0),
        ("count", True),
        ("committed", 0),
        ("head", "00"),
        ("seal", "00" * 32),
        ("seal", "no hex"),
        ("seal", None),
        ("more", 1),
    ],
)
def test_an_edited_anchor_is_noticed(home, files, name, value):
    content = json.loads(files.anchor.read_text())
    content[name] = str(content["inode"]) if value == "as text" else value
    files.anchor.write_text(json.dumps(content))
    refused(home, "ledger.anchor: the")


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"seal": ""}', "\xff"])
def test_an_anchor_of_something_else_is_noticed(home, files, text):
    files.anchor.write_text(text, encoding="latin-1")
    refused(home, "anchor is cut off or damaged")


# --- missing and cut off ---------------------------------------------------------------------


@pytest.mark.parametrize("part", ["database", "key", "anchor"])
def test_a_missing_part_is_named(home, files, part):
    lost = getattr(files, part)
    lost.unlink()
    faults = refused(home, f"{lost.name}: this part of the ledger is missing, and others are there")
    assert len(faults) == 1
    assert not lost.exists(), "nothing is put in its place"
    with pytest.raises(LedgerError, match="here already"):
        Ledger.create(home, site="north")


def test_no_ledger_at_all_is_refused_too(tmp_path):
    refused(tmp_path / "nowhere", "there is no ledger here")
    assert not (tmp_path / "nowhere").exists()


def test_an_empty_database_is_named_so(home, files):
    put_back(b"", files.database)
    assert len(refused(home, "the database is empty, 0 bytes")) == 1


def test_half_a_page_is_named_so(home, files):
    whole = files.database.read_bytes()
    put_back(whole[:-2048], files.database)
    refused(home, f"cut off in the middle of a page, after {len(whole) - 2048} bytes")


def test_a_missing_page_is_noticed(home, files):
    put_back(files.database.read_bytes()[:-4096], files.database)
    refused(home, "damaged or cut off")


def test_something_else_in_place_of_the_database_is_noticed(home, files):
    put_back(b"x" * 8192, files.database)
    refused(home, "damaged or cut off")


def test_a_key_of_another_length_is_named_so(home, files):
    put_back(b"k" * 31, files.key)
    refused(home, "31 bytes instead of 32")


FIXED_HOME = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("part", ["database", "key", "anchor"])
@FIXED_HOME
@given(share=st.floats(min_value=0, max_value=1, exclude_max=True))
def test_a_file_cut_off_at_any_byte_is_refused(home, files, part, share):
    file = getattr(files, part)
    whole = file.read_bytes()
    put_back(whole[: int(share * len(whole))], file)
    try:
        assert verify(home)
        with pytest.raises(LedgerError):
            Ledger.open(home, site="north")
    finally:
        put_back(whole, file)
    assert verify(home) == []


@FIXED_HOME
@given(share=st.floats(min_value=0, max_value=1, exclude_max=True), bit=st.integers(0, 7))
def test_no_changed_bit_changes_the_account(home, files, share, bit):
    """A bit of what SQLite does not use, or takes the same either way, may differ; no more."""
    known = Ledger.open(home, site="north").entries()
    whole = files.database.read_bytes()
    changed = bytearray(whole)
    changed[int(share * len(whole))] ^= 1 << bit
    put_back(changed, files.database)
    try:
        entries = Ledger.open(home, site="north").entries()
    except LedgerError:
        entries = known
    finally:
        for end in ("-wal", "-shm"):
            files.database.with_name(f"ledger.db{end}").unlink(missing_ok=True)
        put_back(whole, files.database)
    assert entries == known


# --- while a site holds it open --------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE number = 3",
        "DELETE FROM entries WHERE number = 2",
        "DELETE FROM entries",
        "UPDATE entries SET number = 4 WHERE number = 3",
        copy_of_row_three(-4),
        "UPDATE entries SET hash = zeroblob(32) WHERE number = 3",
    ],
)
def test_rows_that_go_while_a_site_is_at_work_stop_it(home, statement):
    ledger = Ledger.open(home, site="north", durable=False)
    edit(home, (statement,))
    for use in (
        lambda: reserve(ledger, 4),
        lambda: ledger.commit(3),
        lambda: ledger.history("cardiology"),
        ledger.entries,
    ):
        with pytest.raises(LedgerError):
            use()


def test_a_cost_edited_while_a_site_is_at_work_lowers_nothing_for_it(home):
    ledger = Ledger.open(home, site="north", durable=False)
    spent = ledger.spent("cardiology", delta=1e-5)
    edit(home, ("UPDATE entries SET parameters = ?", EDITS["parameters"]))
    assert ledger.spent("cardiology", delta=1e-5) == spent
    refused(home, "reservation 1 was edited")


# --- a second training on one payment --------------------------------------------------------


@pytest.fixture
def sealed_as_reserved(home):
    """State and seal of row 3 before it is committed: an attacker has kept them."""
    with closing(sqlite3.connect(Files(home=home).database)) as database:
        row = database.execute("SELECT state, seal FROM entries WHERE number = 3").fetchone()
    Ledger.open(home, site="north", durable=False).commit(3)
    return row


@pytest.mark.parametrize("with_its_seal", [True, False])
@pytest.mark.parametrize("at_work", [True, False])
def test_a_payment_that_was_used_does_not_become_open_again(
    home, sealed_as_reserved, with_its_seal, at_work
):
    ledger = Ledger.open(home, site="north", durable=False)
    state, seal = sealed_as_reserved
    edit(home, ("UPDATE entries SET state = ? WHERE number = 3", state))
    if with_its_seal:
        edit(home, ("UPDATE entries SET seal = ? WHERE number = 3", seal))
    opened = (lambda: ledger) if at_work else lambda: Ledger.open(home, site="north", durable=False)
    with pytest.raises(LedgerError):
        reserve(opened(), 3, take_up=True)
    refused(home, "3 were" if with_its_seal else "reservation 3 was edited")


def test_a_used_payment_is_not_opened_by_giving_another_its_place(home, sealed_as_reserved):
    """As many are committed as the anchor knows, and one of them under a false seal."""
    state, seal = sealed_as_reserved
    ledger = Ledger.open(home, site="north", durable=False)
    reserve(ledger, 4)
    edit(
        home,
        ("UPDATE entries SET state = ?, seal = ? WHERE number = 3", state, seal),
        ("UPDATE entries SET state = 'committed' WHERE number = 4",),
    )
    with pytest.raises(LedgerError, match="edited"):
        ledger.settle(COST, purpose=purpose(4))
    refused(home, "reservation 4 was edited")


def test_a_reservation_edited_to_look_like_another_is_not_taken_up(home):
    edit(home, ("UPDATE entries SET round = 9 WHERE number = 3",))
    with pytest.raises(LedgerError):
        reserve(Ledger.open(home, site="north", durable=False), 9, take_up=True)


def test_verify_names_every_fault_and_changes_nothing(home, files):
    edit(
        home,
        ("UPDATE entries SET run = 'x' WHERE number = 1",),
        ("UPDATE entries SET round = 9 WHERE number = 2",),
        ("DELETE FROM entries WHERE number = 3",),
    )
    before = {path: path.read_bytes() for path in files.parts()}
    faults = verify(home)
    assert [fault.partition("reservation")[2][:3].strip() for fault in faults[:2]] == ["1", "2"]
    assert "the last 1 of 3 reservations are missing" in faults[2]
    assert len(faults) == 3
    assert {path: path.read_bytes() for path in files.parts()} == before
