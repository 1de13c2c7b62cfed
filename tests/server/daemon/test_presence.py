"""Who is asked for a sum, who waits outside, and when a node outside is greeted again."""

from itertools import pairwise

import pytest
from scripted_clock import ScriptedClock

from wardround_server.daemon.presence import BRIEF_SECONDS, PATIENT_SECONDS, Presence
from wardround_server.greeting import Joined
from wardround_shared.errors import StoppedError


class Consortium:
    """Nodes that connect, and sites that answer a greeting or are silent."""

    def __init__(self, clock, *sites):
        self.clock = clock
        self.sites = dict(enumerate(sites, start=1))
        self.connections = dict.fromkeys(self.sites, "1")
        self.silent = set()
        self.greeted = []
        self.patience = []

    def online(self):
        return tuple(sorted(self.connections))

    def connected(self, node):
        return self.connections.get(node, "")

    def greet(self, nodes, patience):
        self.greeted += [(self.clock.now, node) for node in nodes]
        names = {n: self.sites[n] for n in nodes if n not in self.silent}
        if len(names) < len(nodes):
            self.clock.now += patience
            self.patience.append(patience)
        return Joined(names=names, absent=(), shapes=())


class Scene:
    def __init__(self, *sites, check=lambda: None):
        self.clock = ScriptedClock()
        self.there = Consortium(self.clock, *sites)
        self.told, self.waited = [], []
        self.presence = Presence(
            Joined(names=dict(self.there.sites), absent=(), shapes=()),
            delivery=self.there,
            greet=self.there.greet,
            told=lambda missing, back: self.told.append((dict(missing), dict(back))),
            waiting=self.waited.append,
            check=check,
            clock=self.clock,
            sleep=self.clock.sleep,
        )

    def invited(self, needed=1):
        return list(self.presence.invited(needed).values())


@pytest.fixture
def scene():
    return Scene("east", "north", "west")


def test_all_are_asked_in_the_order_of_their_names():
    scene = Scene("west", "east")
    assert dict(scene.presence.invited(1)) == {2: "east", 1: "west"}
    assert list(scene.presence.invited(1)) == [2, 1]
    assert scene.there.greeted == []
    assert scene.presence.waits


def test_who_was_missed_stays_outside_until_he_has_greeted(scene):
    scene.there.silent = {2}
    scene.presence.missed({"north": "silent"})
    assert scene.told == [({"north": "silent"}, {})]
    for _ in range(3):
        assert scene.invited() == ["east", "west"]
        scene.clock.now += 1000
    scene.there.silent = set()
    assert scene.invited() == ["east", "north", "west"]
    assert scene.told[-1] == ({}, {"north": ""})


def test_a_silent_node_costs_a_run_no_second_wait_at_once(scene):
    """It was silent for a whole deadline a moment ago."""
    scene.there.silent = {2}
    scene.presence.missed({"north": "silent"})
    before = scene.clock.now
    assert scene.invited() == ["east", "west"]
    assert scene.clock.now == before
    assert scene.there.greeted == []


def test_a_node_that_has_connected_anew_is_greeted_at_once(scene):
    scene.presence.missed({"north": "silent"})
    scene.there.connections[2] = "2"
    assert scene.invited() == ["east", "north", "west"]


def test_a_node_that_is_connected_and_never_answers_costs_less_and_less(scene):
    scene.there.silent = {2}
    scene.presence.missed({"north": "silent"})
    began = scene.clock.now
    rounds = 0
    while scene.clock.now < began + 4 * 3600:
        assert scene.invited() == ["east", "west"]
        scene.clock.now += 1.0  # a round
        rounds += 1
    moments = [at for at, _ in scene.there.greeted]
    between = [later - earlier for earlier, later in pairwise(moments)]
    pauses = [gap - BRIEF_SECONDS for gap in between]
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(30, abs=2)
    assert pauses[-1] == pytest.approx(300, abs=2)
    assert rounds > 0.95 * 4 * 3600
    first_hour = sum(began <= moment < began + 3600 for moment in moments)
    assert first_hour * BRIEF_SECONDS < 130


def test_a_node_that_comes_back_begins_anew(scene):
    scene.there.silent = {2}
    scene.presence.missed({"north": "silent"})
    for _ in range(50):
        scene.invited()
        scene.clock.now += 100
    scene.there.silent = set()
    scene.clock.now += 300
    assert "north" in scene.invited()
    scene.there.silent = {2}
    scene.presence.missed({"north": "silent"})
    scene.clock.now += 16
    greeted = len(scene.there.greeted)
    scene.invited()
    assert len(scene.there.greeted) == greeted + 1


def test_a_known_site_may_come_with_another_node(scene):
    del scene.there.connections[2]
    scene.there.sites[9] = "north"
    scene.there.connections[9] = "1"
    assert dict(scene.presence.invited(3)) == {1: "east", 9: "north", 3: "west"}


def test_a_site_that_was_not_there_at_first_is_taken_in():
    scene = Scene("east")
    scene.there.sites[5] = "north"
    scene.there.connections[5] = "1"
    assert scene.invited() == ["east", "north"]


def test_only_whom_it_has_asked_can_be_missed(scene):
    scene.presence.missed({"nobody": "silent"})
    assert scene.told == []
    assert scene.invited() == ["east", "north", "west"]


def test_below_the_minimum_it_waits_and_says_for_whom(scene):
    scene.there.silent = {2}
    scene.presence.missed({"north": "no answer"})
    scene.clock.told.append(lambda now: scene.there.silent.clear() if now > 1500 else None)
    assert scene.invited(3) == ["east", "north", "west"]
    assert scene.waited == [{"north": "no answer"}]
    assert set(scene.there.patience) == {PATIENT_SECONDS}
    assert scene.clock.now > 1500


def test_it_does_not_wait_for_whom_it_does_not_need(scene):
    scene.there.silent = {2}
    scene.presence.missed({"north": "no answer"})
    assert scene.invited(2) == ["east", "west"]
    assert scene.waited == []
    assert scene.clock.slept == []


def test_whoever_waits_can_be_told_to_stop():
    def check():
        if scene.clock.now > 1100:
            raise StoppedError("stop")

    scene = Scene("east", check=check)
    with pytest.raises(StoppedError):
        scene.presence.invited(2)
