"""The terms of a run: one roster, one threshold, one digest."""

import dataclasses
import doctest
import re
from pathlib import Path

import pytest

from wardround_shared.secure_aggregation import roster as roster_module
from wardround_shared.secure_aggregation.faults import FloorError, RosterError
from wardround_shared.secure_aggregation.roster import Member, Roster, smallest_threshold

PROTOCOL = Path(__file__).parents[3] / "docs" / "protocol.md"
KEYS = {name: name.encode() * 32 for name in "dbca"}


def test_sites_are_numbered_by_name():
    roster = Roster.of(KEYS)
    assert roster.sites == ("a", "b", "c", "d")
    assert [roster.index(site) for site in "abcd"] == [0, 1, 2, 3]
    assert roster.identity(1) == b"b" * 32


def test_examples_hold():
    assert doctest.testmod(roster_module).failed == 0


def test_the_threshold_is_the_smallest_above_two_thirds():
    for sites in range(3, 200):
        threshold = smallest_threshold(sites)
        assert 3 * threshold > 2 * sites >= 3 * (threshold - 1)


def test_the_documented_table_is_right():
    rows = {
        cells[0]: [int(cell) for cell in cells[1:]]
        for line in PROTOCOL.read_text(encoding="utf-8").splitlines()
        if re.match(r"\| (n|t|sites that may|honest sites in)\b.*\| \d+ \|$", line)
        for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
        if len(cells) == 11
    }
    sites, threshold, missing, colluding, honest = rows.values()
    for n, t, m, c, h in zip(sites, threshold, missing, colluding, honest, strict=True):
        assert (t, m, c, h) == (smallest_threshold(n), n - t, 2 * t - n - 1, n + 1 - t)


def test_a_study_may_raise_the_threshold_and_never_lower_it():
    assert Roster.of(KEYS, minimum_sites=4).threshold == 4
    assert Roster.of(KEYS, minimum_sites=1).threshold == 3
    with pytest.raises(FloorError):
        Roster.of(KEYS, minimum_sites=5)


def test_any_difference_shows_in_the_digest():
    roster = Roster.of(KEYS)
    others = [
        Roster.of(KEYS | {"e": b"e" * 32}),
        Roster.of(KEYS | {"a": b"z" * 32}),
        dataclasses.replace(roster, threshold=4),
    ]
    assert len({one.digest for one in (roster, *others)}) == 4
    assert Roster.of(dict(sorted(KEYS.items()))).digest == roster.digest


@pytest.mark.parametrize("names", ["bac", "aab", "abb"])
def test_a_roster_has_one_order(names):
    members = tuple(Member(site=n, identity=bytes([i] * 32)) for i, n in enumerate(names))
    with pytest.raises(RosterError, match="sorted"):
        Roster(members=members, threshold=3)


@pytest.mark.parametrize("key", [b"", b"k" * 31, b"k" * 33])
def test_an_identity_key_has_32_bytes(key):
    with pytest.raises(RosterError, match="32 bytes"):
        Roster.of(KEYS | {"a": key})
