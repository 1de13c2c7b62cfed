"""The ledger spends what it is asked for, refuses what passes the cap, and forgets nothing."""

import hashlib
import hmac
import math
import stat
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import CAP, COST, ledger_of_three, purpose, reserve

from wardround_client.ledger import Cap, Ledger, chain, verify
from wardround_client.ledger.anchor import Files
from wardround_shared.errors import BudgetError, LedgerError, PrivacyError, ProtocolError
from wardround_shared.privacy.accounting import SampledGaussian, epsilon_spent


@pytest.fixture
def home(tmp_path):
    return tmp_path / "site"


@pytest.fixture
def ledger(home):
    return Ledger.create(home, site="north", durable=False)


def room(ledger, cost, cap=CAP, **changes):
    asked = {"data_set": "heart", "population": "cardiology", "unit": "patient"} | changes
    ledger.require_room(cost, cap=cap, **asked)


WAYS = {
    "reserve": lambda ledger, **changes: reserve(ledger, 2, **changes),
    "require_room": lambda ledger, **changes: room(ledger, COST, **changes),
}


# --- what is on disk -------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
def test_a_ledger_is_for_the_sites_user_alone(home, durable):
    ledger = Ledger.create(home, site="north", durable=durable)
    reserve(ledger, 1)
    files = [path for path in home.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"ledger.db", "ledger.key", "ledger.anchor"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {stat.S_IMODE((home / name).stat().st_mode) for name in ("ledger", "keys")} == {0o700}


@pytest.mark.parametrize(
    "part",
    ["ledger/ledger.db", "ledger/ledger.db-wal", "keys/ledger.key", "keys/ledger.anchor"],
)
def test_no_ledger_is_made_where_anything_of_one_is_left(home, part):
    (home / part).parent.mkdir(parents=True)
    (home / part).write_bytes(b"")
    assert Ledger.traces(home)
    with pytest.raises(LedgerError, match="here already"):
        Ledger.create(home, site="north")
    assert [path for path in home.rglob("*") if path.is_file()] == [home / part]


def test_a_ledger_is_not_made_twice(home, ledger):
    reserve(ledger, 1)
    with pytest.raises(LedgerError, match="never written over"):
        Ledger.create(home, site="north")
    assert len(Ledger.open(home, site="north").entries()) == 1


def test_a_ledger_that_could_not_be_made_leaves_nothing_behind(home, monkeypatch):
    def full(*_, **__):
        raise LedgerError("the disk is full.")

    with monkeypatch.context() as broken:
        broken.setattr("wardround_client.ledger.anchor.Anchor.write", full)
        with pytest.raises(LedgerError):
            Ledger.create(home, site="north")
    assert not Ledger.traces(home)
    Ledger.create(home, site="north")


def test_a_ledger_opened_again_is_the_same(home, ledger):
    empty = ledger.head
    for number in (1, 2):
        reserve(ledger, number)
    again = Ledger.open(home, site="north", durable=False)
    assert again.head == ledger.head != empty
    assert again.ledger_id == ledger.ledger_id
    assert again.entries() == ledger.entries()
    assert verify(home) == []


@given(
    noise=st.floats(min_value=1e-3, max_value=1e6),
    rate=st.floats(min_value=1e-6, max_value=1.0),
    steps=st.integers(min_value=1, max_value=10**9),
    run=st.text(min_size=1, max_size=128).filter(str.isprintable),
)
def test_a_row_says_exactly_what_was_reserved(noise, rate, steps, run):
    cost = SampledGaussian(noise_multiplier=noise, sample_rate=rate, steps=steps)
    asked, time = purpose(3, run=run), datetime.now(UTC)
    row = chain.new_row(
        number=7, time=time, purpose=asked, cost=cost, previous=b"p" * 32, key=b"k" * 32
    )
    assert chain.faults_of(row, number=7, previous=b"p" * 32, key=b"k" * 32) == []
    entry = chain.entry_of(row)
    assert (entry.number, entry.time, entry.purpose) == (7, time, asked)
    assert (entry.cost, entry.state) == (cost, "reserved")


def test_the_hash_is_sha_256_over_every_part_after_its_length():
    row = chain.new_row(
        number=1,
        time=datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC),
        purpose=purpose(2),
        cost=COST,
        previous=bytes(32),
        key=b"k" * 32,
    )
    parts = [
        b"wardround/ledger/1/row",
        b"1",
        b"2025-03-04T05:06:07.000000+00:00",
        b"trial",
        b"ab" * 32,
        b"trial-1",
        b"2",
        b"heart",
        b"cardiology",
        b"patient",
        b"sampled-gaussian",
        b'{"noise_multiplier": 4.0, "sample_rate": 0.05, "steps": 5}',
        bytes(32),
    ]
    digest = hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts)).digest()
    sealed = [b"wardround/ledger/1/seal", digest, b"reserved"]
    message = b"".join(len(p).to_bytes(8, "big") + p for p in sealed)
    assert chain.named(row)["hash"] == digest
    assert chain.named(row)["seal"] == hmac.digest(b"k" * 32, message, "sha256")


# --- what it refuses -------------------------------------------------------------------------


def test_a_reservation_counts_before_it_is_committed_and_no_less_afterwards(ledger):
    number = reserve(ledger, 1)
    assert number == 1
    spent = ledger.spent("cardiology", delta=1e-5)
    assert spent == epsilon_spent([COST], 1e-5)
    assert ledger.entries()[0].state == "reserved"
    ledger.commit(number)
    assert ledger.entries()[0].state == "committed"
    assert ledger.spent("cardiology", delta=1e-5) == spent


def test_rounds_are_reserved_up_to_the_cap_and_none_beyond_it(ledger):
    cap = Cap(epsilon=1.0, delta=1e-5)
    large = replace(COST, steps=60)
    refused = None
    for number in range(1, 100):
        try:
            ledger.reserve(large, purpose=purpose(number), cap=cap)
        except BudgetError as error:
            refused = str(error)
            break
    history = ledger.history("cardiology")
    assert len(history) > 2
    spent = epsilon_spent(history, cap.delta).epsilon
    assert spent <= 1.0 < epsilon_spent([*history, large], cap.delta).epsilon
    for figure in (
        "epsilon 1 ",
        "delta 1e-05",
        f"{spent:.4g} is spent",
        f"{1 - spent:.4g} is left",
    ):
        assert figure in refused
    assert len(ledger.entries()) == len(history), "the refused one is not among them"


def test_what_the_larger_bound_refuses_is_refused(ledger):
    """The quick bound decides alone only where the other one cannot be above the cap."""
    history = []
    for number in range(1, 30):
        cap = Cap(epsilon=epsilon_spent([*history, COST], 1e-5).epsilon * 0.9999, delta=1e-5)
        with pytest.raises(BudgetError):
            reserve(ledger, number, cap=cap)
        reserve(ledger, number, cap=Cap(epsilon=cap.epsilon * 1.0002, delta=1e-5))
        history.append(COST)


def test_a_plan_that_does_not_fit_is_refused_before_its_first_round(ledger):
    plan = replace(COST, steps=4000)
    exact = epsilon_spent([plan], 1e-5).epsilon
    room(ledger, plan, Cap(epsilon=exact, delta=1e-5))
    with pytest.raises(BudgetError, match="0 is spent"):
        room(ledger, plan, Cap(epsilon=exact * 0.999, delta=1e-5))
    reserve(ledger, 1)
    with pytest.raises(BudgetError, match="nothing was reserved"):
        room(ledger, plan, Cap(epsilon=exact, delta=1e-5))
    assert len(ledger.entries()) == 1


def test_a_cap_that_was_lowered_between_rounds_holds_from_then_on(ledger):
    reserve(ledger, 1)
    with pytest.raises(BudgetError):
        reserve(ledger, 2, cap=Cap(epsilon=0.01, delta=1e-5))
    with pytest.raises(BudgetError):  # the same epsilon with a smaller chance of failure costs more
        reserve(
            ledger,
            2,
            cap=Cap(epsilon=ledger.spent("cardiology", delta=1e-5).epsilon * 1.2, delta=1e-9),
        )
    reserve(ledger, 2)


def test_data_sets_of_one_population_share_its_account_and_others_do_not(ledger):
    reserve(ledger, 1)
    both = epsilon_spent([COST, COST], 1e-5).epsilon
    tight = Cap(epsilon=both * 0.99, delta=1e-5)
    with pytest.raises(BudgetError):
        reserve(ledger, 1, data_set="ecg", run="other", cap=tight)
    reserve(ledger, 1, data_set="lungs", population="pneumology", run="other", cap=tight)
    reserve(ledger, 1, data_set="ecg", run="third")
    assert len(ledger.history("cardiology")) == 2
    assert ledger.spent("cardiology", delta=1e-5).epsilon == both


@pytest.mark.parametrize("way", WAYS)
def test_an_account_keeps_its_unit(ledger, way):
    reserve(ledger, 1)
    with pytest.raises(PrivacyError, match=r'write privacy\.unit = "patient"'):
        WAYS[way](ledger, unit="record")
    reserve(ledger, 2, data_set="lungs", population="pneumology", unit="record")


@pytest.mark.parametrize("way", WAYS)
def test_a_data_set_does_not_get_a_new_account_by_another_name(ledger, way):
    reserve(ledger, 1)
    with pytest.raises(LedgerError, match="keeps its population"):
        WAYS[way](ledger, population="cardiology-2")


def test_a_round_of_a_run_is_reserved_once(home, ledger):
    reserve(ledger, 1)
    for again in (ledger, Ledger.open(home, site="north", durable=False)):
        with pytest.raises(ProtocolError, match=r"round 1.* each round is trained once"):
            reserve(again, 1)
        with pytest.raises(ProtocolError):
            again.reserve(replace(COST, steps=1), purpose=purpose(1), cap=CAP)
    reserve(ledger, 1, run="trial-2")
    reserve(ledger, 1, study_id="cd" * 32)
    assert len(ledger.entries()) == 3


# --- taken up, settled -----------------------------------------------------------------------


def test_an_open_reservation_is_taken_up_and_costs_nothing_more(home, ledger):
    reserve(ledger, 1)
    number = reserve(ledger, 2)
    head = ledger.head
    for again in (ledger, Ledger.open(home, site="north", durable=False)):
        assert reserve(again, 2, take_up=True) == number
    assert ledger.head == head
    assert ledger.history("cardiology") == [COST] * 2
    ledger.commit(number)
    assert [entry.state for entry in ledger.entries()] == ["reserved", "committed"]
    assert verify(home) == []


def test_what_was_never_reserved_is_reserved_when_it_is_to_be_taken_up(ledger):
    assert reserve(ledger, 1, take_up=True) == 1
    assert reserve(ledger, 2, take_up=True) == 2
    assert reserve(ledger, 1, take_up=True, run="trial-2") == 3
    assert len(ledger.entries()) == 3


def test_a_committed_reservation_is_not_taken_up(home, ledger):
    """Also not by a holder that read it when it was open."""
    reserve(ledger, 1)
    other = Ledger.open(home, site="north", durable=False)
    ledger.commit(1)
    for holder in (ledger, other):
        with pytest.raises(ProtocolError, match="each round is trained once"):
            reserve(holder, 1, take_up=True)
    assert len(ledger.entries()) == 1


OTHERS = {
    "noise_multiplier": "at another cost",
    "sample_rate": "at another cost",
    "steps": "at another cost",
    "study": "other patients or another unit",
    "data_set": "other patients or another unit",
    "population": "other patients or another unit",
    "unit": "other patients or another unit",
}


@pytest.mark.parametrize("way", ["reserve", "settle"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_reservation_for_something_else_is_neither_taken_up_nor_settled(ledger, name, way):
    reserve(ledger, 1)
    changes = {
        "noise_multiplier": 4.0000001,
        "sample_rate": 0.04,
        "steps": 4,
        "unit": "record",
    }
    if OTHERS[name] == "at another cost":
        cost, asked = replace(COST, **{name: changes[name]}), purpose(1)
    else:
        cost, asked = COST, purpose(1, **{name: changes.get(name, "another")})
    ways = {
        "reserve": lambda: ledger.reserve(cost, purpose=asked, cap=CAP, take_up=True),
        "settle": lambda: ledger.settle(cost, purpose=asked),
    }
    with pytest.raises(PrivacyError, match=OTHERS[name]):
        ways[way]()
    assert [entry.state for entry in ledger.entries()] == ["reserved"]


def test_the_reservation_of_another_study_is_not_taken_up(ledger):
    """The same round of the same run under another study is a payment of its own."""
    reserve(ledger, 1)
    assert reserve(ledger, 1, study_id="cd" * 32, take_up=True) == 2
    with pytest.raises(LedgerError, match="not in the ledger"):
        ledger.settle(COST, purpose=purpose(1, study_id="ef" * 32))
    assert ledger.history("cardiology") == [COST] * 2


def test_a_cap_that_was_lowered_meanwhile_holds_for_what_is_taken_up(ledger):
    for number in (1, 2, 3):
        reserve(ledger, number)
    spent = ledger.spent("cardiology", delta=CAP.delta).epsilon
    assert reserve(ledger, 3, take_up=True, cap=replace(CAP, epsilon=1.001 * spent)) == 3
    with pytest.raises(BudgetError):
        reserve(ledger, 3, take_up=True, cap=replace(CAP, epsilon=0.9 * spent))


def test_settling_commits_once_and_is_content_with_what_is_committed(home, ledger):
    reserve(ledger, 1)
    for holder in (ledger, Ledger.open(home, site="north", durable=False), ledger):
        holder.settle(COST, purpose=purpose(1))
        assert [entry.state for entry in ledger.entries()] == ["committed"]
    with pytest.raises(LedgerError, match="not in the ledger"):
        ledger.settle(COST, purpose=purpose(2))
    assert verify(home) == []


def test_only_what_is_reserved_can_be_committed_and_only_once(ledger):
    with pytest.raises(LedgerError, match="no reservation 1"):
        ledger.commit(1)
    reserve(ledger, 1)
    ledger.commit(1)
    with pytest.raises(LedgerError, match="committed already"):
        ledger.commit(1)


BAD = [math.nan, -1.0, 0.0, -0.0, 5e-324, 1e-310, math.inf, -math.inf]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", ["noise_multiplier", "sample_rate"])
def test_what_is_no_cost_cannot_be_asked_for(ledger, name, value):
    with pytest.raises(PrivacyError):
        ledger.reserve(replace(COST, **{name: value}), purpose=purpose(1), cap=CAP)
    assert ledger.entries() == ()


@pytest.mark.parametrize(
    "cost", [replace(COST, steps=0), SampledGaussian(noise_multiplier=0, sample_rate=1, steps=0)]
)
def test_a_cost_of_no_steps_is_refused(ledger, cost):
    with pytest.raises(PrivacyError, match="at least one step"):
        ledger.reserve(cost, purpose=purpose(1), cap=CAP)
    with pytest.raises(PrivacyError, match="at least one step"):
        room(ledger, cost)
    assert ledger.entries() == ()


@pytest.mark.parametrize("value", BAD)
def test_what_is_no_cap_caps_nothing(value):
    with pytest.raises(PrivacyError, match="cap's epsilon"):
        Cap(epsilon=value, delta=1e-5)
    with pytest.raises(PrivacyError, match="cap's delta"):
        Cap(epsilon=1.0, delta=value)


def test_a_delta_of_one_promises_nothing():
    with pytest.raises(PrivacyError, match="below 1"):
        Cap(epsilon=1.0, delta=1.0)


def test_noise_that_bounds_nothing_is_refused(ledger):
    with pytest.raises(PrivacyError):
        ledger.reserve(
            SampledGaussian(noise_multiplier=1e-9, sample_rate=1.0, steps=10**6),
            purpose=purpose(1),
            cap=Cap(epsilon=1e9, delta=1e-5),
        )
    assert ledger.entries() == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"run": ""},
        {"run": "r" * 129},
        {"run": "a\x1b[2Jb"},
        {"study": "a\nb"},
        {"population": "\ud800"},
        {"number": -1},
        {"number": 2**63},
        {"unit": "hospital"},
    ],
)
def test_a_name_that_would_flood_a_disk_or_steer_a_terminal_is_refused(changes):
    with pytest.raises(PrivacyError):
        purpose(**changes)


# --- several holders -------------------------------------------------------------------------


def test_each_of_two_holders_sees_what_the_other_one_has_spent(home, ledger):
    other = Ledger.open(home, site="north", durable=False)
    for number in range(1, 9):
        assert reserve((ledger, other)[number % 2], number) == number
    other.commit(1)
    ledger.commit(2)
    assert ledger.history("cardiology") == other.history("cardiology") == [COST] * 8
    assert ledger.head == other.head
    assert ledger.entries() == other.entries()
    assert verify(home) == []


def test_no_method_lowers_or_resets_what_was_spent():
    public = {name for name in dir(Ledger) if not name.startswith("_")}
    assert public == {
        "create",
        "open",
        "traces",
        "site",
        "ledger_id",
        "head",
        "entries",
        "history",
        "spent",
        "require_room",
        "reserve",
        "commit",
        "settle",
    }


def test_a_home_that_was_renamed_on_its_disk_keeps_its_ledger(tmp_path):
    ledger_of_three(tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    ledger = Ledger.open(tmp_path / "after", site="north")
    assert reserve(ledger, 4) == 4


def test_a_home_may_have_any_name(tmp_path):
    home = tmp_path / "a site? #1 100% ü"
    ledger_of_three(home)
    assert verify(home) == []
    assert Files(home=home).database.exists()
