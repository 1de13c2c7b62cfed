"""The ledger of one site: it reserves a cost before the training, or refuses.

Each change is on disk in two steps: the row, in a transaction that has read everything before it,
then the anchor. A crash before the first leaves nothing, and nothing was trained. A crash between
them leaves a row that the anchor does not know; it counts, and the next change mends the anchor.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from wardround_client.durable import sync_folder
from wardround_client.ledger import chain, store
from wardround_client.ledger.anchor import (
    Anchor,
    Files,
    read_anchor,
    write_key,
    writing,
)
from wardround_client.ledger.chain import Cap, Entry, Purpose
from wardround_client.ledger.verification import (
    Contents,
    behind,
    chain_faults,
    copied,
    read_ledger,
)
from wardround_shared.errors import BudgetError, LedgerError, PrivacyError, ProtocolError
from wardround_shared.privacy.accounting import (
    SampledGaussian,
    Spent,
    epsilon_by_rdp,
    epsilon_spent,
)

# RDP is a bound by itself and takes no time; PRV takes a tenth of a second. Up to this share of the
# cap it could only pass it by an error of its numerics, so it is not asked.
_CLEARLY = 0.98


class Ledger:
    """What a site has spent, over all studies, and the only way to spend more.

    Several processes may hold the same ledger. No lock is kept between calls. Nothing here lowers
    what was spent.
    """

    def __init__(self, files: Files, contents: Contents, *, durable: bool) -> None:
        """Use `create` or `open`."""
        self._files = files
        self._durable = durable
        self._key = contents.key
        self._start = contents.start
        self._ledger_id, self._site = contents.ledger_id, contents.site
        # Rows that were verified once are not read again: what counts is what they said then.
        self._entries = [chain.entry_of(row) for row in contents.rows]

    @classmethod
    def create(cls, home: Path, *, site: str, durable: bool = True) -> Self:
        """Make an empty ledger under a site's home.

        Args:
            home: the site's folder; made if need be.
            site: its name.
            durable: whether what is written survives a power cut; a simulation, whose sites end
                with their machine, does without.

        Raises:
            LedgerError: there is one already, or any part of one, or the disk is full.
        """
        files = Files(home=home)
        for part in files.traces():
            raise LedgerError(
                f"{part}: a ledger is here already, or what is left of one; it is never written "
                "over."
            )
        for folder in (files.database.parent, files.key.parent):
            with writing(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = write_key(files.key, durable=durable)
        try:
            _make(files, site=site, key=key, durable=durable)
        except BaseException:
            # The key was new, so all of this is, and nothing was ever reserved in it.
            for part in files.traces():
                with suppress(OSError):
                    part.unlink()
            raise
        return cls.open(home, site=site, durable=durable)

    @classmethod
    def open(cls, home: Path, *, site: str | None, durable: bool = True) -> Self:
        """Open the ledger under a site's home, and check all of it.

        Args:
            home: the site's folder.
            site: whose ledger it must be; None, to look at it: whosever.
            durable: see `create`.

        Raises:
            LedgerError: it is missing, cut off, edited, rolled back, or a copy.
        """
        files = Files(home=home)
        return cls(files, read_ledger(files, site=site), durable=durable)

    @staticmethod
    def traces(home: Path) -> bool:
        """Whether there is a ledger under a site's home, or anything that is left of one."""
        return bool(Files(home=home).traces())

    @property
    def site(self) -> str:
        """Whose ledger this is."""
        return self._site

    @property
    def ledger_id(self) -> str:
        """Given once, at random, when the ledger was made; in hex."""
        return self._ledger_id

    @property
    def head(self) -> bytes:
        """Hash of the last row; before the first, of the ledger's name."""
        return self._entries[-1].hash if self._entries else self._start

    def entries(self) -> tuple[Entry, ...]:
        """Every reservation, in order; read and checked anew.

        Raises:
            LedgerError: see `open`.
        """
        contents = read_ledger(self._files, site=self._site)
        return tuple(chain.entry_of(row) for row in contents.rows)

    def history(self, population: str) -> list[SampledGaussian]:
        """Everything that was reserved for a population, committed or not.

        Raises:
            LedgerError: the ledger was changed from outside.
        """
        self._look()
        return self._history(population)

    def spent(self, population: str, *, delta: float) -> Spent:
        """Epsilon of everything that was reserved for a population.

        Raises:
            LedgerError: the ledger was changed from outside.
            PrivacyError: delta is none.
        """
        return epsilon_spent(self.history(population), delta)

    def require_room(
        self, cost: SampledGaussian, *, data_set: str, population: str, unit: str, cap: Cap
    ) -> None:
        """Refuse a plan that does not fit; nothing is reserved.

        Args:
            cost: all steps of the plan that are not reserved yet.
            data_set: that the study is about.
            population: whose account is to be charged.
            unit: of the study.
            cap: of that population.

        Raises:
            BudgetError: history and cost together would pass the cap.
            PrivacyError: no cost; or the account has another unit, or the data set another account.
            LedgerError: the ledger was changed from outside.
        """
        chain.require_cost(cost)
        self._look()
        self._require_account(data_set, population, unit)
        _require_room(self._history(population), cost, cap)

    def reserve(
        self, cost: SampledGaussian, *, purpose: Purpose, cap: Cap, take_up: bool = False
    ) -> int:
        """Spend a round's cost, before it is trained; on disk when this returns.

        Args:
            cost: of this round.
            purpose: what for.
            cap: of the purpose's population.
            take_up: whether this round's own reservation will do, made before its training broke
                off. Only for a site that sends nothing before the reservation is committed.

        Returns:
            The reservation's number, for `commit`.

        Raises:
            BudgetError: history and cost together would pass the cap; nothing is reserved.
            ProtocolError: this round of this run was reserved before, and is not to be taken up.
            PrivacyError: no cost; or the account has another unit, or the data set another account,
                or the open reservation is for something else.
            LedgerError: the ledger was changed from outside, or cannot be written.
        """
        chain.require_cost(cost)
        with self._changing() as connection:
            known = self._known(purpose)
            if known is not None:
                if not (take_up and self._state(connection, known.number) == "reserved"):
                    raise ProtocolError(
                        f"The server asks for a training of round {purpose.round}, and this site's "
                        "ledger has that round of this run already; each round is trained once, "
                        "so start a new run."
                    )
                _require_same(known, purpose, cost)
            self._require_account(purpose.data_set, purpose.population, purpose.unit)
            # All but the one that is taken up, so that a cap that was lowered meanwhile holds.
            _require_room(self._history(purpose.population, but=known), cost, cap)
            if known is not None:
                return known.number
            number = len(self._entries) + 1
            row = chain.new_row(
                number=number,
                time=datetime.now(UTC),
                purpose=purpose,
                cost=cost,
                previous=self.head,
                key=self._key,
            )
            store.insert(connection, row)
        return number

    def commit(self, number: int) -> None:
        """Note that a reservation's training has ended; it counts as before.

        Raises:
            LedgerError: there is no such reservation, it is committed already, the ledger was
                changed from outside, or cannot be written.
        """
        with self._changing() as connection:
            if self._state(connection, number) != "reserved":
                raise LedgerError(
                    f"{self._files.database}: reservation {number} is committed already."
                )
            self._commit(connection, number)

    def settle(self, cost: SampledGaussian, *, purpose: Purpose) -> None:
        """Have the reservation of a round committed whose training has ended, now or before.

        Raises:
            PrivacyError: the round was reserved for something else.
            LedgerError: it was never reserved, the ledger was changed from outside, or cannot be
                written.
        """
        with self._changing() as connection:
            known = self._known(purpose)
            if known is None:
                raise LedgerError(
                    f"{self._files.database}: round {purpose.round} was trained and is not in the "
                    "ledger; nothing of it may be sent, see docs/ledger.md."
                )
            _require_same(known, purpose, cost)
            if self._state(connection, known.number) == "reserved":
                self._commit(connection, known.number)

    # --- parts -------------------------------------------------------------------------------

    def _look(self) -> None:
        with store.connected(self._files.database, durable=self._durable) as connection:
            connection.execute("BEGIN")  # one state of the database, whoever writes meanwhile
            self._catch_up(connection)

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One change: no other process writes meanwhile; row and anchor are on disk at its end."""
        with store.connected(self._files.database, durable=self._durable) as connection:
            with store.transaction(connection):
                self._catch_up(connection)
                yield connection
            # A transaction of its own, so that of two processes none writes an older anchor last.
            with store.transaction(connection):
                anchor = self._catch_up(connection)
                count, committed = store.totals(connection)
                Anchor(
                    ledger_id=self._ledger_id,
                    site=self._site,
                    inode=anchor.inode,
                    count=count,
                    committed=committed,
                    head=self.head.hex(),
                ).write(self._files.anchor, key=self._key, durable=self._durable)

    def _catch_up(self, connection: sqlite3.Connection) -> Anchor:
        """Take in what other processes have written, and check that it goes on from what we know.

        Raises:
            LedgerError: it does not: rows are gone or exchanged, or the file is another one.
        """
        # Before the database: see `verification`.
        anchor = read_anchor(self._files.anchor, key=self._key)
        fault = copied(self._files, anchor)
        if fault is not None:
            raise LedgerError(fault)
        known = len(self._entries)
        last = store.row_at(connection, known) if known else None
        rows = store.rows(connection, after=known)
        faults = chain_faults(rows, after=known, previous=self.head, key=self._key)
        count, committed = store.totals(connection)
        gone = known and (last is None or chain.named(last)["hash"] != self.head)
        if gone or count != known + len(rows):
            faults.insert(0, "reservations that were there are missing or were exchanged")
        if not faults:
            self._entries += [chain.entry_of(row) for row in rows]
            hashes = [entry.hash for entry in self._entries]
            short = behind(anchor, hashes, start=self._start, committed=committed)
            faults += [] if short is None else [short]
        if faults:
            raise LedgerError(
                f"{self._files.database}: {faults[0]}; nothing may be trained on this account, "
                "see docs/ledger.md."
            )
        return anchor

    def _history(self, population: str, *, but: Entry | None = None) -> list[SampledGaussian]:
        charged = (one for one in self._entries if one.purpose.population == population)
        return [entry.cost for entry in charged if entry is not but]

    def _known(self, purpose: Purpose) -> Entry | None:
        """The reservation of that round, as it was when it was read; its state may be another."""
        asked = (purpose.study_id, purpose.run, purpose.round)
        for entry in self._entries:
            one = entry.purpose
            if (one.study_id, one.run, one.round) == asked:
                return entry
        return None

    def _state(self, connection: sqlite3.Connection, number: int) -> chain.State:
        """The state of a reservation as it is now, under its seal.

        Raises:
            LedgerError: there is no such reservation, or it was changed from outside.
        """
        row = store.row_at(connection, number)
        if row is None:
            raise LedgerError(f"{self._files.database}: there is no reservation {number}.")
        previous = self._entries[number - 2].hash if number > 1 else self._start
        for fault in chain.faults_of(row, number=number, previous=previous, key=self._key):
            raise LedgerError(
                f"{self._files.database}: {fault}; nothing may be trained on this account, "
                "see docs/ledger.md."
            )
        state: chain.State = chain.named(row)["state"]
        return state

    def _commit(self, connection: sqlite3.Connection, number: int) -> None:
        digest = self._entries[number - 1].hash
        store.set_committed(connection, number, chain.seal(digest, "committed", self._key))

    def _require_account(self, data_set: str, population: str, unit: str) -> None:
        """One account has one unit, and a data set keeps its account.

        A bound per record is none per patient. And a population that got another name in the
        policy would begin with nothing spent.

        Raises:
            PrivacyError: the ledger has it otherwise.
        """
        for entry in self._entries:
            one = entry.purpose
            if one.population == population and one.unit != unit:
                raise PrivacyError(
                    f"This site accounts these patients per {one.unit}, and the study asks for "
                    f'privacy per {unit}; write privacy.unit = "{one.unit}".'
                )
            if one.data_set == data_set and one.population != population:
                raise LedgerError(
                    f"The data set {data_set} was charged to the population {one.population} "
                    f"(reservation {entry.number}), and the policy now says {population}; a data "
                    "set keeps its population, so put that back."
                )


def _make(files: Files, *, site: str, key: bytes, durable: bool) -> None:
    """Database and anchor, the anchor last: until it is there, nothing opens them."""
    title = store.Title(
        ledger_id=os.urandom(16).hex(), site=site, created=datetime.now(UTC).isoformat()
    )
    store.create(files.database, title, durable=durable)
    Anchor(
        ledger_id=title.ledger_id,
        site=site,
        inode=files.database.stat().st_ino,
        count=0,
        committed=0,
        head=title.start.hex(),
    ).write(files.anchor, key=key, durable=durable)
    if durable:
        for folder in (files.database.parent, files.home, files.home.absolute().parent):
            with writing(folder):
                sync_folder(folder)


def _require_same(known: Entry, purpose: Purpose, cost: SampledGaussian) -> None:
    """Refuse a reservation that was made for anything but this.

    Raises:
        PrivacyError: naming what differs.
    """
    if known.cost != cost:
        raise PrivacyError(
            f"Round {purpose.round} of this run was reserved at another cost than it has now: the "
            "cohort, the study's plan or the software has changed meanwhile; start a new run."
        )
    if known.purpose != purpose:
        raise PrivacyError(
            f"Round {purpose.round} of this run was reserved for other patients or another unit "
            "than now: data set or policy have changed meanwhile; start a new run."
        )


def _require_room(history: list[SampledGaussian], cost: SampledGaussian, cap: Cap) -> None:
    together = [*history, cost]
    if epsilon_by_rdp(together, cap.delta) <= _CLEARLY * cap.epsilon:
        return
    total = epsilon_spent(together, cap.delta).epsilon
    if total <= cap.epsilon:
        return
    spent = epsilon_spent(history, cap.delta).epsilon
    alone = epsilon_spent([cost], cap.delta).epsilon
    # The server may read this: no population, which the hospital has named as it likes.
    raise BudgetError(
        f"This site allows epsilon {cap.epsilon:g} at delta {cap.delta:g} for these patients, over "
        f"all studies: {spent:.4g} is spent, {max(cap.epsilon - spent, 0.0):.4g} is left, and this "
        f"asks for {alone:.4g}, which makes {total:.4g} together; nothing was reserved, so ask for "
        "less."
    )
