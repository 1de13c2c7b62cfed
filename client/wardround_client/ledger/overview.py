"""The account in figures: what each population and study has spent, and what is left."""

import math
from collections.abc import Sequence
from typing import Any

from wardround_client.ledger.chain import Entry
from wardround_client.ledger.reservations import Ledger
from wardround_client.policy import Policy
from wardround_shared.privacy.accounting import Spent, epsilon_spent

# Where there is no policy, and so no delta.
_USUAL_DELTA = 1e-5


def overview(ledger: Ledger, policy: Policy | None) -> dict[str, Any]:
    """Everything that `wardround-site ledger show` says, ready for JSON.

    What each study has spent by itself adds up to more than they have spent together.

    Args:
        ledger: to show.
        policy: with the caps; None: there is none, and no cap is shown.

    Raises:
        PrivacyError: the ledger was changed from outside, or no bound can be found.
    """
    entries = ledger.entries()
    return {
        "site": ledger.site,
        "ledger_id": ledger.ledger_id,
        "head": ledger.head.hex(),
        "populations": [
            _population(name, [one for one in entries if one.purpose.population == name], policy)
            for name in _distinct([one.purpose.population for one in entries])
        ],
        "reservations": [_reservation(entry) for entry in entries],
    }


def _population(name: str, entries: Sequence[Entry], policy: Policy | None) -> dict[str, Any]:
    cap = None if policy is None else policy.cap_of_population(name)
    delta = _USUAL_DELTA if cap is None else cap.delta
    spent = _spent(entries, delta)
    studies = _distinct([entry.purpose.study_id for entry in entries])
    return {
        "population": name,
        "unit": entries[0].purpose.unit,
        "data_sets": _distinct([entry.purpose.data_set for entry in entries]),
        "delta": delta,
        "cap": None if cap is None else cap.epsilon,
        "spent": _figures(spent),
        "left": None if cap is None else max(0.0, cap.epsilon - spent.epsilon),
        "studies": [
            _study([one for one in entries if one.purpose.study_id == study], delta)
            for study in studies
        ],
    }


def _study(entries: Sequence[Entry], delta: float) -> dict[str, Any]:
    first = entries[0].purpose
    return {
        "study": first.study,
        "study_id": first.study_id,
        "runs": _distinct([entry.purpose.run for entry in entries]),
        "rounds": len(entries),
        "spent": _figures(_spent(entries, delta)),
    }


def _spent(entries: Sequence[Entry], delta: float) -> Spent:
    return epsilon_spent([entry.cost for entry in entries], delta)


def _figures(spent: Spent) -> dict[str, float | None]:
    return {
        "epsilon": spent.epsilon,
        "prv": None if math.isnan(spent.prv) else spent.prv,
        "rdp": spent.rdp,
    }


def _reservation(entry: Entry) -> dict[str, Any]:
    purpose, cost = entry.purpose, entry.cost
    return {
        "number": entry.number,
        "time": entry.time.isoformat(timespec="seconds"),
        "study": purpose.study,
        "study_id": purpose.study_id,
        "run": purpose.run,
        "round": purpose.round,
        "data_set": purpose.data_set,
        "population": purpose.population,
        "unit": purpose.unit,
        "noise_multiplier": cost.noise_multiplier,
        "sample_rate": cost.sample_rate,
        "steps": cost.steps,
        "state": entry.state,
        "hash": entry.hash.hex(),
    }


def _distinct(names: Sequence[str]) -> list[str]:
    """In the order in which they first come."""
    return list(dict.fromkeys(names))
