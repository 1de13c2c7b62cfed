"""The two tables: what the profile says of an attribute, and what is known to be safe to keep."""

import csv
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

EDITION = "2026c"
"""Of PS3.15, from which profile.csv was made."""

_OVERLAYS, _CURVES = 0x6000, 0x5000


class Action(StrEnum):
    """What is done to an attribute."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    UID = "U"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """kept.toml. Keywords are those of PS3.6.

    Attributes:
        numbers, classes, dates, emptied, tables, sequences: keywords, as the file explains them.
        codes: keyword of a sequence -> context groups of PS3.16.
        terms: keyword -> the values that may stand there.
        quiet, others: UIDs of the SOP classes that are written.
    """

    numbers: frozenset[str]
    classes: frozenset[str]
    dates: frozenset[str]
    emptied: frozenset[str]
    tables: frozenset[str]
    sequences: frozenset[str]
    codes: Mapping[str, tuple[str, ...]]
    terms: Mapping[str, frozenset[str]]
    quiet: frozenset[str]
    others: frozenset[str]


@cache
def kept() -> Kept:
    """What a new file may hold."""
    text = files(__package__).joinpath("kept.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    images = content["images"]
    return Kept(
        numbers=frozenset(content["numbers"]),
        classes=frozenset(content["classes"]),
        dates=frozenset(content["dates"]),
        emptied=frozenset(content["emptied"]),
        tables=frozenset(content["tables"]),
        sequences=frozenset(content["sequences"]),
        codes={name: tuple(groups) for name, groups in content["codes"].items()},
        terms={name: frozenset(words) for name, words in content["terms"].items()},
        quiet=_uids(images["quiet"]),
        others=_uids(images["others"]),
    )


@cache
def profile() -> Mapping[tuple[int, int], str]:
    """Table E.1-1: (group, element) -> its column "Basic Prof."; without 50xx and 60xx."""
    return {
        (int(row["group"], 16), int(row["element"], 16)): row["action"]
        for row in _rows()
        if "xx" not in row["group"]
    }


def action(group: int, element: int) -> Action | None:
    """What the profile asks for, or None where its table does not name the attribute.

    Of a choice ("X/Z/D") the profile lets the type of the attribute decide, which depends on the
    kind of object; a dummy value is right for every type, and an empty one for all but Type 1.
    """
    if group & 0xFF00 in {_OVERLAYS, _CURVES}:
        return Action.REMOVE
    choice = profile().get((group, element))
    if choice is None:
        return None
    offered = choice.replace("*", "").split("/")
    for better in (Action.UID, Action.DUMMY, Action.EMPTY):
        if better in offered:
            return better
    return Action.REMOVE


@cache
def known_codes(group: str) -> Mapping[tuple[str, str], str]:
    """A context group of PS3.16: (coding scheme, value) -> meaning."""
    from pydicom.sr.codedict import codes  # noqa: PLC0415 - slow to import

    members = getattr(codes, group)
    found = (getattr(members, name) for name in members.dir())
    return {(code.scheme_designator, code.value): code.meaning for code in found}


def _rows() -> Iterable[Mapping[str, str]]:
    text = files(__package__).joinpath("profile.csv").read_text(encoding="utf-8")
    return csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))


def _uids(keywords: list[str]) -> frozenset[str]:
    from pydicom import uid  # noqa: PLC0415 - slow to import

    return frozenset(str(getattr(uid, keyword)) for keyword in keywords)
