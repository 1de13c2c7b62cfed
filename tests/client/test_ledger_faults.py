"""Crashes, full disks and other processes: what was not refused is on disk, and counts.

What has to die, fill its disk or race does so in a process of its own. Its accountant adds up
steps, which takes no time to import: these tests are about what is written, not about epsilon.
"""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager

import pytest
from ledgers import ledger_of_three, reserve

from wardround_client.ledger import Ledger, store, verify
from wardround_client.ledger.anchor import Anchor, Files
from wardround_shared.errors import LedgerError

PROGRAM = """
import json, os, resource, signal, sys
from pathlib import Path
from ledgers import COST, purpose
from wardround_client.ledger import Cap, Ledger, anchor, reservations, store
from wardround_shared.errors import BudgetError, LedgerError
from wardround_shared.privacy.accounting import Spent

def added(history, delta):
    return float(sum(cost.steps for cost in history))

reservations.epsilon_by_rdp = added
reservations.epsilon_spent = lambda history, delta: Spent(prv=added(history, delta), rdp=0.0)
ROOM = Cap(epsilon=1e9, delta=1e-5)

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def say(text):
    print(text, flush=True)

home = Path(sys.argv[1])
"""


@contextmanager
def process(program, *arguments):
    command = [sys.executable, "-c", PROGRAM + program, *map(str, arguments)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def run(program, *arguments):
    with process(program, *arguments) as running:
        out, _ = running.communicate(timeout=120)
    return running.returncode, out


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "north"
    ledger_of_three(home)
    return home


def known_to_anchor(home):
    return json.loads(Files(home=home).anchor.read_text())["count"]


# --- crashes ---------------------------------------------------------------------------------


def test_a_crash_between_reserve_and_commit_counts_as_spent(home):
    code, out = run(
        """
ledger = Ledger.open(home, site="north")
say(ledger.reserve(COST, purpose=purpose(4), cap=ROOM))
die()
""",
        home,
    )
    assert (code, out) == (-signal.SIGKILL, "4\n")
    ledger = Ledger.open(home, site="north")
    assert ledger.entries()[3].state == "reserved"
    assert len(ledger.history("cardiology")) == 4
    assert verify(home) == []


@pytest.mark.parametrize("change", ["reserve(COST, purpose=purpose(4), cap=ROOM)", "commit(3)"])
@pytest.mark.parametrize(
    "moment",
    [
        "anchor.Anchor.write = die",  # after the row, before the anchor
        "os.replace = Path.replace = die",  # after the new anchor is written, before it is in place
    ],
)
def test_a_crash_between_database_and_anchor_counts_and_is_mended(home, change, moment):
    code, out = run(
        f"""
ledger = Ledger.open(home, site="north")
{moment}
ledger.{change}
say("alive")
""",
        home,
    )
    assert (code, out) == (-signal.SIGKILL, "")
    assert verify(home) == []
    ledger = Ledger.open(home, site="north")
    rows = ledger.entries()
    assert known_to_anchor(home) == 3
    if change.startswith("reserve"):
        assert [row.purpose.round for row in rows] == [1, 2, 3, 4]
    else:
        assert [row.state for row in rows] == ["committed"] * 3
    reserve(ledger, 5)
    assert known_to_anchor(home) == len(rows) + 1
    assert verify(home) == []


def test_a_crash_before_the_row_is_written_costs_nothing(home):
    code, _ = run(
        """
ledger = Ledger.open(home, site="north")
store.insert = die
ledger.reserve(COST, purpose=purpose(4), cap=ROOM)
""",
        home,
    )
    assert code == -signal.SIGKILL
    ledger = Ledger.open(home, site="north")
    assert len(ledger.entries()) == 3
    assert reserve(ledger, 4) == 4


@pytest.mark.parametrize("durable", [True, False])
def test_whenever_a_site_is_killed_all_it_was_promised_is_there(home, durable):
    """Killed at a random moment of reserving and committing, over and over."""
    moments = random.Random(3)
    count = 3
    for attempt in range(6):
        with process(
            f"""
ledger = Ledger.open(home, site="north", durable={durable})
say("begun")
for number in range(1, 1000):
    done = ledger.reserve(COST, purpose=purpose(number, run=sys.argv[2]), cap=ROOM)
    say("promised")
    ledger.commit(done)
""",
            home,
            f"run-{attempt}",
        ) as running:
            assert running.stdout.readline() == "begun\n"
            time.sleep(moments.uniform(0.0, 0.06))
            running.kill()
            promised = running.stdout.read().count("promised\n")
        assert verify(home) == []
        found = len(Ledger.open(home, site="north").entries())
        assert found - count - promised in {0, 1}, "at most the one that was being written"
        count = found
    assert count > 3


# --- a disk that is full, read-only, or in use -----------------------------------------------


def test_on_a_full_disk_a_reservation_is_whole_or_refused(home):
    """The size that a file may have grows byte by byte, from none to what it takes."""
    code, out = run(
        """
wal = 32 + 24 + 4096
limits = [0, 1, 31, 32, 100, 500, 4096, wal - 1, wal, 2 * wal, 12288, 16384, 20480, 32767, 32768]
for attempt, limit in enumerate(limits * 2):
    durable = attempt >= len(limits)
    number = 10 + attempt
    ledger = Ledger.open(home, site="north", durable=durable)
    before = len(ledger.entries())
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        ledger.reserve(COST, purpose=purpose(number), cap=ROOM)
        done = "reserved"
    except LedgerError as error:
        done = "refused"
        sentence = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    rows = Ledger.open(home, site="north").entries()
    mine = [row for row in rows if row.purpose.round == number]
    assert len(rows) == before + len(mine), limit
    assert done == "refused" or len(mine) == 1, limit
    say(done)
say(sentence)
""",
        home,
    )
    assert code == 0, out
    *done, sentence = out.splitlines()
    assert set(done) == {"refused", "reserved"}
    assert "the disk is full or does not answer" in sentence or "cannot be written" in sentence
    assert verify(home) == []


def test_a_full_disk_makes_no_half_of_a_ledger(tmp_path):
    code, out = run(
        """
for limit in (0, 1, 31, 32, 4096, 8192, 16384):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        Ledger.create(home, site="north")
        say("made")
    except LedgerError as error:
        say("refused")
        assert not Ledger.traces(home), (limit, list(home.rglob("*")))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
Ledger.create(home, site="north")
""",
        tmp_path / "new",
    )
    assert code == 0, out
    assert set(out.split()) == {"refused"}
    assert verify(tmp_path / "new") == []


def test_an_anchor_that_cannot_be_written_refuses_and_counts(home, monkeypatch):
    ledger = Ledger.open(home, site="north", durable=False)

    def full(*_, **__):
        raise LedgerError("keys/ledger.anchor: cannot be written (No space left on device).")

    with monkeypatch.context() as broken:
        broken.setattr(Anchor, "write", full)
        with pytest.raises(LedgerError, match="No space"):
            reserve(ledger, 4)
    assert len(ledger.history("cardiology")) == 4
    assert reserve(ledger, 5) == 5
    assert verify(home) == []


@pytest.fixture
def read_only(monkeypatch):
    connect = sqlite3.connect

    def reading(location, **options):
        return connect(location.replace("mode=rw", "mode=ro"), **options)

    monkeypatch.setattr(store.sqlite3, "connect", reading)


def test_a_read_only_disk_refuses(home, request):
    ledger = Ledger.open(home, site="north", durable=False)
    request.getfixturevalue("read_only")
    with pytest.raises(LedgerError, match="cannot be opened or written"):
        reserve(ledger, 4)
    with pytest.raises(LedgerError, match="cannot be opened or written"):
        ledger.commit(3)
    assert len(ledger.entries()) == 3


def test_a_database_that_another_process_holds_refuses(home, monkeypatch):
    monkeypatch.setattr(store, "_PATIENCE", 0.05)
    ledger = Ledger.open(home, site="north", durable=False)
    with closing(sqlite3.connect(Files(home=home).database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match=r"another process has held the ledger for 0\.05 s"):
            reserve(ledger, 4)
        assert len(ledger.history("cardiology")) == 3, "reading goes on"
    assert reserve(ledger, 4) == 4


def test_no_lock_is_kept_between_calls(home):
    holder = Ledger.open(home, site="north", durable=False)
    reserve(holder, 4)
    with closing(sqlite3.connect(Files(home=home).database, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")


# --- two processes ---------------------------------------------------------------------------

RACER = """
for line in sys.stdin:
    home, number, run = line.split()
    ledger = Ledger.open(Path(home), site="north", durable=False)
    say("ready")
    sys.stdin.readline()
    cap = Cap(epsilon=20.0, delta=1e-5)
    try:
        ledger.reserve(COST, purpose=purpose(int(number), run=run), cap=cap)
        say("won")
    except BudgetError:
        say("lost")
"""


def test_two_processes_cannot_both_spend_the_last_epsilon(tmp_path):
    """Three of four rounds are spent; two processes ask for the last one, many times."""
    won = []
    with process(RACER, tmp_path) as one, process(RACER, tmp_path) as other:
        for race in range(60):
            home = tmp_path / f"site-{race}"
            ledger_of_three(home)
            for name, racer in (("one", one), ("other", other)):
                racer.stdin.write(f"{home} 4 {name}\n")
                racer.stdin.flush()
            assert [racer.stdout.readline() for racer in (one, other)] == ["ready\n"] * 2
            for racer in (one, other) if race % 2 else (other, one):
                racer.stdin.write("go\n")
                racer.stdin.flush()
            said = [racer.stdout.readline().strip() for racer in (one, other)]
            assert sorted(said) == ["lost", "won"]
            won.append(said.index("won"))
            assert verify(home) == []
            assert len(Ledger.open(home, site="north").entries()) == 4
    assert set(won) == {0, 1}, "it was a race"


def test_many_processes_lose_no_row_of_another(home):
    program = """
ledger = Ledger.open(home, site="north", durable=False)
say("ready")
sys.stdin.readline()
for number in range(25):
    ledger.commit(ledger.reserve(COST, purpose=purpose(number, run=sys.argv[2]), cap=ROOM))
"""
    with ExitStack() as running:
        workers = [running.enter_context(process(program, home, name)) for name in "abc"]
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        reader, looked = Ledger.open(home, site="north", durable=False), 0
        while any(worker.poll() is None for worker in workers):
            assert verify(home) == [], "a reader never sees a half of a change"
            assert len(reader.history("cardiology")) >= 3
            looked += 1
        assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert looked > 3
    rows = Ledger.open(home, site="north").entries()
    assert [row.number for row in rows] == list(range(1, 79))
    for name in "abc":
        assert [row.purpose.round for row in rows if row.purpose.run == name] == list(range(25))
    assert verify(home) == []


def test_a_reader_sees_one_state_of_the_ledger(home, monkeypatch):
    reader = Ledger.open(home, site="north", durable=False)
    totals, begun = store.totals, []

    def after_another_has_written(connection):
        if not begun:
            begun.append(True)
            reserve(Ledger.open(home, site="north", durable=False), 4)
        return totals(connection)

    monkeypatch.setattr(store, "totals", after_another_has_written)
    assert len(reader.history("cardiology")) == 3
    assert len(reader.history("cardiology")) == 4


def test_the_accountant_of_these_tests_is_the_one_that_is_called(home):
    code, out = run(
        """
try:
    Ledger.open(home, site="north").reserve(COST, purpose=purpose(4), cap=Cap(epsilon=19, delta=.1))
except BudgetError as error:
    say(error)
""",
        home,
    )
    assert code == 0
    assert "15 is spent" in out
