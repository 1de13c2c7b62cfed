"""What a row of the ledger says, and how each row is bound to the last; without IO.

A row's hash covers everything but its state, and the hash of the row before it. Its seal is made
with the site's key and covers hash and state, so whoever edits the database without the key cannot
make the chain whole again. What is hashed is a list of parts, each after its length in eight bytes,
so no two lists are the same bytes (Merkle and Damgard's chaining; HMAC: RFC 2104).
"""

import hashlib
import hmac
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, get_args

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy.accounting import SampledGaussian

Unit = Literal["patient", "record"]
State = Literal["reserved", "committed"]
Row = tuple[Any, ...]
"""A row as the database holds it: one value for each of `COLUMNS`."""

HASH_BYTES = 32
MECHANISM = "sampled-gaussian"

# Column and type, in the order of the table and of what is hashed.
_HASHED: dict[str, type] = {
    "number": int,
    "time": str,
    "study": str,
    "study_id": str,
    "run": str,
    "round": int,
    "data_set": str,
    "population": str,
    "unit": str,
    "mechanism": str,
    "parameters": str,
    "previous": bytes,
}
_TYPES = _HASHED | {"state": str, "hash": bytes, "seal": bytes}
COLUMNS = tuple(_TYPES)

_GENESIS, _ROW, _SEAL = (
    b"wardround/ledger/1/genesis",
    b"wardround/ledger/1/row",
    b"wardround/ledger/1/seal",
)
# Run and study are named by the server: no room for a flood, nor for what would steer a terminal.
_LONGEST_NAME = 128
_LARGEST_ROUND = 2**31


@dataclass(frozen=True, kw_only=True)
class Cap:
    """The most that all studies together may spend on one population.

    Raises:
        PrivacyError: a value that is no bound: not finite, not positive, subnormal; delta of 1.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        for name, value in (("epsilon", self.epsilon), ("delta", self.delta)):
            # A subnormal number passes "> 0" and vanishes in the arithmetic that follows.
            if not (math.isfinite(value) and value >= sys.float_info.min):
                raise PrivacyError(f"A cap's {name} must be positive and finite, not {value}.")
        if self.delta >= 1:
            raise PrivacyError(f"A cap's delta must be below 1, not {self.delta}.")


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """What a reservation is for.

    Attributes:
        study: its name.
        population: the patients whose account is charged; several data sets may share it.
        unit: whose presence the mechanism hides.

    Raises:
        PrivacyError: a name that is empty, too long or not printable, a round out of range, or an
            unknown unit.
    """

    study: str
    study_id: str
    run: str
    round: int
    data_set: str
    population: str
    unit: str

    def __post_init__(self) -> None:
        for name in ("study", "study_id", "run", "data_set", "population"):
            text = getattr(self, name)
            if not (text and len(text) <= _LONGEST_NAME and text.isprintable()):
                raise PrivacyError(
                    f"A reservation's {name} must be of 1 to {_LONGEST_NAME} printable letters."
                )
        if not 0 <= self.round <= _LARGEST_ROUND:
            raise PrivacyError(f"A reservation cannot be for round {self.round}.")
        if self.unit not in get_args(Unit):
            raise PrivacyError(f"Privacy is accounted per patient or record, not {self.unit!r}.")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One reservation.

    Attributes:
        number: counted from 1.
        time: when it was made, UTC.
        state: `reserved` until its training has ended; it counts as spent in either state.
        hash: of this row and, through the chain, of all before it.
    """

    number: int
    time: datetime
    purpose: Purpose
    cost: SampledGaussian
    state: State
    hash: bytes


def require_cost(cost: SampledGaussian) -> None:
    """Refuse a cost of nothing; what else is no cost its own class refuses.

    Raises:
        PrivacyError: no steps.
    """
    if cost.steps < 1:
        raise PrivacyError("A reservation must be for at least one step.")


def genesis(*, ledger_id: str, site: str, created: str) -> bytes:
    """The hash that the first row follows."""
    return hashlib.sha256(_joined(_GENESIS, (ledger_id, site, created))).digest()


def new_row(
    *,
    number: int,
    time: datetime,
    purpose: Purpose,
    cost: SampledGaussian,
    previous: bytes,
    key: bytes,
) -> Row:
    """A reserved row that follows the row whose hash is `previous`, sealed with `key`."""
    parameters = {
        "noise_multiplier": float(cost.noise_multiplier),
        "sample_rate": float(cost.sample_rate),
        "steps": int(cost.steps),
    }
    hashed = (
        number,
        time.isoformat(timespec="microseconds"),
        purpose.study,
        purpose.study_id,
        purpose.run,
        purpose.round,
        purpose.data_set,
        purpose.population,
        purpose.unit,
        MECHANISM,
        json.dumps(parameters, allow_nan=False),  # the shortest text that reads as the same float
        previous,
    )
    digest = _hash(hashed)
    return (*hashed, "reserved", digest, seal(digest, "reserved", key))


def named(row: Row) -> dict[str, Any]:
    """A row's values by the names of their columns."""
    return dict(zip(COLUMNS, row, strict=True))


def seal(digest: bytes, state: State, key: bytes) -> bytes:
    """HMAC-SHA256 over a row's hash and state."""
    return tag(_SEAL, (digest, state), key)


def tag(label: bytes, parts: Iterable[str | int | bytes], key: bytes) -> bytes:
    """HMAC-SHA256 over labelled parts."""
    return hmac.digest(key, _joined(label, parts), "sha256")


def faults_of(row: Row, *, number: int, previous: bytes, key: bytes) -> list[str]:
    """Everything that is wrong with the row that should be the given one; empty = sound."""
    for (name, kind), value in zip(_TYPES.items(), row, strict=True):
        if type(value) is not kind:
            return [f"reservation {number} was edited: its {name} is not what the ledger writes"]
    content = named(row)
    faults = []
    if content["number"] != number:
        faults.append(
            f"reservation {number} is missing: number {content['number']} is in its place"
        )
    elif content["previous"] != previous:
        faults.append(
            f"reservation {number} does not follow the one before it: "
            "a row was removed, added or exchanged"
        )
    if content["hash"] != _hash(row[: len(_HASHED)]):
        faults.append(f"reservation {number} was edited: its content does not fit its hash")
    expected = seal(content["hash"], content["state"], key)
    if content["state"] not in get_args(State) or not hmac.compare_digest(
        content["seal"], expected
    ):
        faults.append(f"reservation {number} was edited: hash and state do not fit its seal")
    return faults


def entry_of(row: Row) -> Entry:
    """The content of a row without faults.

    Raises:
        PrivacyError: it was written by another version, with a mechanism that is not known here.
    """
    content = named(row)
    if content["mechanism"] != MECHANISM:
        raise PrivacyError(f"The mechanism {content['mechanism']!r} is not known to this version.")
    return Entry(
        number=content["number"],
        time=datetime.fromisoformat(content["time"]),
        purpose=Purpose(**{field.name: content[field.name] for field in fields(Purpose)}),
        cost=SampledGaussian(**json.loads(content["parameters"])),
        state=content["state"],
        hash=content["hash"],
    )


def _hash(hashed: Sequence[str | int | bytes]) -> bytes:
    return hashlib.sha256(_joined(_ROW, hashed)).digest()


def _joined(label: bytes, parts: Iterable[str | int | bytes]) -> bytes:
    """One string of bytes for one list only; the kinds of the parts are the same in every list."""
    encoded = (part if isinstance(part, bytes) else str(part).encode() for part in parts)
    return b"".join(len(part).to_bytes(8, "big") + part for part in (label, *encoded))
