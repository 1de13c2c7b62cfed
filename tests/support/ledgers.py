"""Ledgers with a few reservations, for tests that use or attack them."""

from pathlib import Path

from wardround_client.ledger import Cap, Ledger, Purpose
from wardround_shared.privacy.accounting import SampledGaussian

CAP = Cap(epsilon=8.0, delta=1e-5)
COST = SampledGaussian(noise_multiplier=4.0, sample_rate=0.05, steps=5)


def purpose(number: int = 1, **changes: object) -> Purpose:
    """Round `number` of one run, with some values changed."""
    usual = {
        "study": "trial",
        "study_id": "ab" * 32,
        "run": "trial-1",
        "round": number,
        "data_set": "heart",
        "population": "cardiology",
        "unit": "patient",
    }
    return Purpose(**(usual | changes))


def reserve(
    ledger: Ledger, number: int, *, cap: Cap = CAP, take_up: bool = False, **changes: object
) -> int:
    """Reserve the usual cost for round `number`."""
    return ledger.reserve(COST, purpose=purpose(number, **changes), cap=cap, take_up=take_up)


def ledger_of_three(home: Path, *, site: str = "north") -> Ledger:
    """A ledger with three reservations; the last one is not committed."""
    ledger = Ledger.create(home, site=site, durable=False)
    for number in (1, 2, 3):
        reserve(ledger, number)
    for number in (1, 2):
        ledger.commit(number)
    return ledger
