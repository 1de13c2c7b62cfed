"""All checks of a ledger as it lies on disk; no reservation is changed, whatever is found."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wardround_client.ledger import chain, store
from wardround_client.ledger.anchor import Anchor, Files, read_anchor, read_key, reading
from wardround_shared.errors import LedgerError


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A ledger that was read.

    Attributes:
        start: the hash that the first row follows.
        rows: in the order of the table.
    """

    ledger_id: str
    site: str
    key: bytes
    start: bytes
    rows: tuple[chain.Row, ...]


def verify(home: Path, *, site: str | None = None) -> list[str]:
    """Every fault of the ledger under a site's home, one sentence each; none = it is sound.

    Args:
        home: the site's folder.
        site: whose ledger it must be; None: whosever.
    """
    try:
        return _examine(Files(home=home), site)[0]
    except LedgerError as error:
        return [str(error)]


def read_ledger(files: Files, *, site: str | None) -> Contents:
    """The content of a ledger without any fault.

    Raises:
        LedgerError: naming the first fault.
    """
    faults, contents = _examine(files, site)
    if contents is None or faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise LedgerError(
            f"{faults[0].rstrip('.')}{more}; nothing may be trained on this account, "
            "see docs/ledger.md."
        )
    return contents


def copied(files: Files, anchor: Anchor) -> str | None:
    """Whether the database is another file than the one that the ledger was made with."""
    with reading(files.database):
        inode = files.database.stat().st_ino
    if inode == anchor.inode:
        return None
    return (
        f"{files.database}: this is a copy, not the file that the site has written; a ledger "
        "cannot be copied, moved to another disk or restored."
    )


def behind(anchor: Anchor, hashes: Sequence[bytes], *, start: bytes, committed: int) -> str | None:
    """How the database falls short of what the anchor knows; None = it does not.

    A database with more than the anchor knows is what a crash between the two leaves. It is sound.

    Args:
        anchor: with the number of rows and the last hash when it was written.
        hashes: of all rows, in order.
        start: the hash that the first row follows.
        committed: number of rows in that state.
    """
    if len(hashes) < anchor.count:
        return (
            f"the last {anchor.count - len(hashes)} of {anchor.count} reservations are missing: "
            "they were deleted, or an older copy of the database was put back"
        )
    if (hashes[anchor.count - 1] if anchor.count else start).hex() != anchor.head:
        return (
            f"reservation {anchor.count} is not the one that the anchor knows: the database is "
            "not the one that the site has written last"
        )
    if committed < anchor.committed:
        return (
            f"{committed} reservations are committed and {anchor.committed} were: an older copy "
            "of the database was put back"
        )
    return None


def chain_faults(
    rows: Iterable[chain.Row], *, after: int, previous: bytes, key: bytes
) -> list[str]:
    """Everything that is wrong with rows that should follow row `after`, whose hash is given."""
    faults = []
    for row in rows:
        named = chain.named(row)
        faults += chain.faults_of(row, number=after + 1, previous=previous, key=key)
        # Go on from what is there: one fault is not to be told once for each row behind it.
        after, previous = named["number"], named["hash"]
    return faults


def _examine(files: Files, site: str | None) -> tuple[list[str], Contents | None]:
    """All faults, and what could be read in spite of them."""
    faults = _missing(files)
    if faults:
        return faults, None
    key = read_key(files.key)
    # The anchor before the database: if another process writes meanwhile, the database is ahead of
    # the anchor, as after a crash, and never behind.
    anchor = None
    try:
        anchor = read_anchor(files.anchor, key=key)
        faults += _misplaced(files, anchor, site)
    except LedgerError as error:
        faults.append(str(error))
    try:
        found, contents = _read(files.database, key, anchor)
    except LedgerError as error:
        return [*faults, str(error)], None
    return [*faults, *(f"{files.database}: {fault}." for fault in found)], contents


def _missing(files: Files) -> list[str]:
    with reading(files.home):
        missing = [part for part in files.parts() if not part.exists()]
    if len(missing) == len(files.parts()):
        return [f"{files.home}: there is no ledger here."]
    return [
        f"{part}: this part of the ledger is missing, and others are there." for part in missing
    ]


def _misplaced(files: Files, anchor: Anchor, site: str | None) -> list[str]:
    faults = []
    if site is not None and anchor.site != site:
        faults.append(
            f"{files.anchor}: this is the ledger of the site {anchor.site!r}, not of {site!r}."
        )
    copy = copied(files, anchor)
    return faults if copy is None else [*faults, copy]


def _read(file: Path, key: bytes, anchor: Anchor | None) -> tuple[list[str], Contents | None]:
    with reading(file):
        cut = store.cut_off(file)
    if cut is not None:
        return [cut], None
    # Durable although it only reads: it may be the one that folds in what a crash left in the log.
    with store.connected(file, durable=True) as connection:
        connection.execute("BEGIN")  # one state of the database, whoever writes meanwhile
        return _check(connection, key, anchor)


def _check(
    connection: sqlite3.Connection, key: bytes, anchor: Anchor | None
) -> tuple[list[str], Contents | None]:
    damage = store.damage(connection)
    if damage is not None:
        return [damage], None
    title = store.title_of(connection)
    if title is None:
        return ["the database does not say whose ledger it is"], None
    rows = tuple(store.rows(connection))
    contents = Contents(
        ledger_id=title.ledger_id, site=title.site, key=key, start=title.start, rows=rows
    )
    if anchor is not None and (title.ledger_id, title.site) != (anchor.ledger_id, anchor.site):
        return [f"this is the database of another ledger, of the site {title.site!r}"], contents
    faults = chain_faults(rows, after=0, previous=title.start, key=key)
    # Where a row is not even of the right types, there is no more to compare.
    if anchor is not None and all(isinstance(chain.named(row)["hash"], bytes) for row in rows):
        hashes = [chain.named(row)["hash"] for row in rows]
        short = behind(anchor, hashes, start=title.start, committed=store.totals(connection)[1])
        faults += [] if short is None else [short]
    return faults, contents
