"""Every invited site ends in exactly one of aggregated and dropped; too few sum nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_server.aggregation import RunningSum
from wardround_server.rounds import Round
from wardround_shared.errors import NotEnoughSitesError, ProtocolError
from wardround_shared.messages import Update

SITES = ("a", "b", "c", "d", "e")


def _round(minimum: int = 1, sites: tuple[str, ...] = SITES) -> Round:
    running = RunningSum(parameters=2, counts=1, sites=len(sites))
    return Round(number=4, invited=sites, minimum_sites=minimum, running_sum=running)


def _update(value: float = 1.0, size: int = 2) -> Update:
    return Update(delta=np.full(size, value, np.float32), weight=1.0, counts=np.ones(1))


@given(fates=st.lists(st.sampled_from(["add", "bad", "drop", "silent"]), min_size=5, max_size=5))
def test_invited_is_aggregated_plus_dropped(fates):
    current = _round(minimum=0)
    for site, fate in zip(SITES, fates, strict=True):
        if fate == "add":
            current.add(site, _update())
        elif fate == "bad":
            current.add(site, _update(size=3))
        elif fate == "drop":
            current.drop(site, "gone")
    total = current.close()
    line = current.roster_line()
    dropped = {drop.site for drop in line.dropped}
    assert set(line.aggregated) | dropped == set(SITES)
    assert not set(line.aggregated) & dropped
    assert total.sites == len(line.aggregated) == fates.count("add")
    assert all(drop.why for drop in line.dropped)
    assert set(line.trained) == {
        s for s, fate in zip(SITES, fates, strict=True) if fate in {"add", "bad"}
    }


def test_fewer_than_the_minimum_reveal_no_sum():
    current = _round(minimum=3)
    current.add("a", _update())
    current.add("b", _update())
    current.drop("c", "its disk is full")
    with pytest.raises(NotEnoughSitesError, match=r"2 of 5 sites.*c: its disk is full"):
        current.close()


def test_a_site_cannot_answer_twice_or_uninvited():
    current = _round()
    current.add("a", _update())
    with pytest.raises(ProtocolError, match="twice"):
        current.add("a", _update())
    with pytest.raises(ProtocolError, match="twice"):
        current.drop("a", "late")
    with pytest.raises(ProtocolError, match="not invited"):
        current.add("z", _update())
