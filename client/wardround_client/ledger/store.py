"""The ledger's database: SQLite in WAL mode, opened for each operation and closed after it.

A connection that is kept would not survive a fork, and closing the last one folds the log into the
database, so that one file is the whole ledger while nobody writes. WAL needs shared memory: the
database has to lie on a disk of this machine, not on a network file system.
"""

import math
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from wardround_client.ledger.anchor import writing
from wardround_client.ledger.chain import COLUMNS, Row, genesis
from wardround_shared.errors import LedgerError

PAGE_BYTES = 4096
# Seconds for which a process waits for another one that is writing.
_PATIENCE = 30.0

# The triggers stop a slip of the hand, no attacker: for him there are the hashes and seals.
_SCHEMA = (
    "CREATE TABLE ledger (ledger_id TEXT NOT NULL, site TEXT NOT NULL, created TEXT NOT NULL)",
    """CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    study TEXT NOT NULL,
    study_id TEXT NOT NULL,
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    data_set TEXT NOT NULL,
    population TEXT NOT NULL,
    unit TEXT NOT NULL,
    mechanism TEXT NOT NULL,
    parameters TEXT NOT NULL,
    previous BLOB NOT NULL,
    state TEXT NOT NULL,
    hash BLOB NOT NULL,
    seal BLOB NOT NULL,
    UNIQUE (study_id, run, round)
)""",
    """CREATE TRIGGER no_delete BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER no_edit BEFORE UPDATE OF number, time, study, study_id, run, round, data_set,
population, unit, mechanism, parameters, previous, hash ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER no_return BEFORE UPDATE ON entries WHEN OLD.state = 'committed'
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
)
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM entries"  # noqa: S608 (our own names)
_PLACES = ", ".join("?" * len(COLUMNS))
_INSERT = f"INSERT INTO entries ({', '.join(COLUMNS)}) VALUES ({_PLACES})"  # noqa: S608


@dataclass(frozen=True, kw_only=True)
class Title:
    """The database's one line about itself; the chain of hashes begins with it."""

    ledger_id: str
    site: str
    created: str

    @property
    def start(self) -> bytes:
        """The hash that the first row follows."""
        return genesis(ledger_id=self.ledger_id, site=self.site, created=self.created)


def create(file: Path, title: Title, *, durable: bool) -> None:
    """Make an empty database, in a file that was not there.

    Raises:
        LedgerError: it is there, or the disk is full.
    """
    with writing(file):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with connected(file, durable=durable) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        with transaction(connection):
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(
                "INSERT INTO ledger (ledger_id, site, created) VALUES (?, ?, ?)",
                (title.ledger_id, title.site, title.created),
            )


@contextmanager
def connected(file: Path, *, durable: bool) -> Iterator[sqlite3.Connection]:
    """A connection to a database that is there.

    Args:
        file: the database.
        durable: whether a commit survives a power cut, and not only the end of the process.

    Raises:
        LedgerError: whatever SQLite refuses meanwhile, as one sentence.
    """
    location = f"{file.absolute().as_uri()}?mode=rw"  # not rwc, which would make an empty one
    try:
        connection = sqlite3.connect(location, uri=True, timeout=_PATIENCE, isolation_level=None)
        with closing(connection):
            for setting in (
                f"synchronous = {'FULL' if durable else 'OFF'}",
                f"fullfsync = {'ON' if durable else 'OFF'}",  # macOS: through the disk's own cache
                "trusted_schema = OFF",
                "cell_size_check = ON",
            ):
                connection.execute(f"PRAGMA {setting}")
            yield connection
    except sqlite3.Error as error:
        raise LedgerError(f"{file}: {_reason(error)}.") from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Everything inside or nothing, and no other process writes between its first and last line."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def title_of(connection: sqlite3.Connection) -> Title | None:
    """The line about the database; None if it is not one line of three texts."""
    lines = connection.execute("SELECT ledger_id, site, created FROM ledger").fetchall()
    if len(lines) != 1 or not all(isinstance(value, str) for value in lines[0]):
        return None
    ledger_id, site, created = lines[0]
    return Title(ledger_id=ledger_id, site=site, created=created)


def rows(connection: sqlite3.Connection, *, after: float = -math.inf) -> list[Row]:
    """All rows in order, or those after a number."""
    return connection.execute(f"{_SELECT} WHERE number > ? ORDER BY number", (after,)).fetchall()


def row_at(connection: sqlite3.Connection, number: int) -> Row | None:
    """The row of that number."""
    row: Row | None = connection.execute(f"{_SELECT} WHERE number = ?", (number,)).fetchone()
    return row


def totals(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many rows there are, and how many of them are committed."""
    count, committed = connection.execute(
        "SELECT count(*), coalesce(sum(state = 'committed'), 0) FROM entries"
    ).fetchone()
    return count, committed


def insert(connection: sqlite3.Connection, row: Row) -> None:
    """Append a row."""
    connection.execute(_INSERT, row)


def set_committed(connection: sqlite3.Connection, number: int, seal: bytes) -> None:
    """Change a row's state, and the seal that covers it."""
    connection.execute(
        "UPDATE entries SET state = 'committed', seal = ? WHERE number = ?", (seal, number)
    )


def damage(connection: sqlite3.Connection) -> str | None:
    """What is wrong with the database as a database; None = nothing."""
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != ("ok",):
        return "the database is damaged"
    if _schema_of(connection) != _expected_schema():
        return "the tables of the database were changed"
    return None


def cut_off(file: Path) -> str | None:
    """What the size of the file says about it; None = nothing.

    While there is a log, the file may be anything: the log makes it whole.
    """
    if file.with_name(f"{file.name}-wal").exists():
        return None
    size = file.stat().st_size
    if size == 0:
        return "the database is empty, 0 bytes"
    if size % PAGE_BYTES:
        return f"the database is cut off in the middle of a page, after {size} bytes"
    return None


def _schema_of(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    return connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    ).fetchall()


@lru_cache(maxsize=1)
def _expected_schema() -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in _SCHEMA:
            connection.execute(statement)
        return _schema_of(connection)


def _reason(error: sqlite3.Error) -> str:
    """What SQLite's error means to whoever keeps the machine."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR"):
        return f"the disk is full or does not answer ({error}); free some space"
    if name.startswith("SQLITE_BUSY"):
        return f"another process has held the ledger for {_PATIENCE:g} seconds; try again"
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"the database cannot be opened or written ({error}); see to its permissions"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return f"the database is damaged or cut off ({error})"
    return f"the database refuses ({error})"
