"""Below its minimum a run waits and does not fail, and its roster says what became of each site."""

import json

import numpy as np
import pytest
from killed_server import Killed, PlainSites, SecureSites, Server, study_of

from wardround_server import attempts, secure_attempt
from wardround_server.attendance import Everyone
from wardround_server.participation import participation_in
from wardround_shared.errors import LostRoundError, NotEnoughSitesError, StoppedError
from wardround_shared.messages import CLASS_COUNTS, EVALUATE, HELLO, STATISTICS, TRAIN

FOUR = ("east", "north", "south", "west")


class Present:
    """An attendance that waits: who missed something is back when the test says so.

    Attributes:
        back_after: how many times the others are asked before a site is back, if they are enough.
    """

    waits = True

    def __init__(self, sites, joined, back_after):
        self.sites, self.back_after = sites, back_after
        self.outside: dict[str, int] = {
            site: back_after for site in sites.sites if site not in joined.names.values()
        }
        self.told: list[dict[str, str]] = []
        self.needed: list[int] = []

    def invited(self, needed):
        self.needed.append(needed)
        self.outside = {site: left - 1 for site, left in self.outside.items() if left > 0}
        names = {n: s for n, s in self.sites.names.items() if s not in self.outside}
        while len(names) < needed:
            self.outside = {site: left - 1 for site, left in self.outside.items() if left > 0}
            names = {n: s for n, s in self.sites.names.items() if s not in self.outside}
        return dict(sorted(names.items(), key=lambda item: item[1]))

    def missed(self, sites):
        self.told.append(dict(sites))
        self.outside |= dict.fromkeys(sites, self.back_after)


def waiting_server(tmp_path, *, names=FOUR, back_after=1, **settings):
    sites = PlainSites(names)
    made = []

    def attendance_of(joined):
        made.append(Present(sites, joined, back_after))
        return made[-1]

    server = Server(
        tmp_path / "run", study_of(), sites, **({"attendance_of": attendance_of} | settings)
    )
    return server, sites, made


def roster(server):
    return [json.loads(line) for line in (server.path / "roster.jsonl").read_text().splitlines()]


def failing(*places, answer="its disk is full", times=1):
    """Fails so often at each of these (site, message type, round)."""
    left = dict.fromkeys(places, times)

    def fails(site, message_type, number):
        place = (site, message_type, number)
        if left.get(place, 0) > 0:
            left[place] -= 1
            return answer
        return None

    return fails


# --- rounds ---------------------------------------------------------------------------------------


def test_a_round_below_the_minimum_is_tried_again_with_the_same_number(tmp_path):
    server, sites, _ = waiting_server(tmp_path)
    whole = server.run()
    other, sites, _ = waiting_server(tmp_path / "other")
    sites.fails = failing(("north", TRAIN, 2), ("south", TRAIN, 2), times=3)
    outcome = other.run()
    assert outcome.given_up == ()
    # Waited for, and not left out: the model is the same as if nobody had been away.
    np.testing.assert_array_equal(outcome.parameters, whole.parameters)
    lines = roster(other)
    assert [(line["round"], line["attempts"]) for line in lines] == [(1, 1), (2, 4), (3, 1), (4, 1)]
    assert [len(line["aggregated"]) for line in lines] == [4, 4, 4, 4]
    assert [len(line["dropped"]) for line in lines] == [0, 0, 0, 0]
    waits = [(number, set(sites)) for number, sites, _ in other.watcher.waits]
    assert waits == [(2, {"north", "south"})] * 3
    assert all("2 of 4 sites" in why for _, _, why in other.watcher.waits)
    tried = [(number, attempt) for number, attempt, _ in other.watcher.opened_attempts]
    assert [attempt for number, attempt in tried if number == 2] == [1, 2, 3, 4]


def test_a_dead_site_delays_one_round_and_waits_outside(tmp_path):
    server, sites, _ = waiting_server(tmp_path, back_after=1)
    sites.fails = failing(("north", TRAIN, 2), answer="")
    server.run()
    lines = roster(server)
    assert [line["invited"] for line in lines] == [
        list(FOUR),
        list(FOUR),
        ["east", "south", "west"],
        list(FOUR),
    ]
    assert lines[1]["dropped"] == [{"site": "north", "why": "no answer before the deadline"}]
    (absent,) = lines[2]["absent"]
    assert absent["site"] == "north"
    assert "away since round 2: no answer" in absent["why"]
    assert [line["attempts"] for line in lines] == [1, 1, 1, 1]
    asked = [place for place in sites.answers.times if place[0] == "north"]
    assert ("north", TRAIN, 3) not in asked
    assert ("north", TRAIN, 4) in asked


def test_a_site_dropped_in_one_attempt_and_gone_in_the_next_stands_in_the_line(tmp_path):
    server, sites, _ = waiting_server(tmp_path, back_after=2)
    fails = failing(("north", TRAIN, 2), answer="its disk is full")
    also = failing(("south", TRAIN, 2), answer="")

    def either(*place):
        failure = fails(*place)
        return also(*place) if failure is None else failure

    sites.fails = either
    # South is back at once, north is not.
    stays = {"north": 3, "south": 1}

    class Uneven(Present):
        def missed(self, missing):
            self.outside |= {site: stays[site] for site in missing}

    server.settings["attendance_of"] = lambda joined: Uneven(sites, joined, 1)
    server.run()
    line = roster(server)[1]
    assert line["attempts"] == 2
    assert set(line["aggregated"]) == {"east", "south", "west"}
    assert line["dropped"] == [{"site": "north", "why": "its disk is full"}]
    assert set(line["invited"]) == set(line["aggregated"]) | {"north"}


def test_a_lost_round_is_given_up_and_not_tried_again(tmp_path, monkeypatch):
    from wardround_server.plain_sums import PlainSums

    server, _, _ = waiting_server(tmp_path)
    updates = PlainSums.updates

    def lost(self, request, number, **settings):
        total = updates(self, request, number, **settings)
        if number == 2:
            raise LostRoundError("false shares")
        return total

    monkeypatch.setattr(PlainSums, "updates", lost)
    outcome = server.run()
    assert [one.round for one in outcome.given_up] == [2]
    tried = [number for number, _, _ in server.watcher.opened_attempts]
    assert tried.count(2) == 1
    assert server.watcher.waits == []


@pytest.mark.parametrize("kind", [CLASS_COUNTS, STATISTICS, EVALUATE])
def test_other_sums_are_waited_for_too(tmp_path, kind):
    whole, _, _ = waiting_server(tmp_path)
    whole.run()
    server, sites, _ = waiting_server(tmp_path / "other")
    number = 5 if kind == EVALUATE else 0
    sites.fails = failing(("north", kind, number), ("south", kind, number), times=2)
    server.run()
    assert server.files() == whole.files()
    assert [number for number, _, _ in server.watcher.waits] == [number, number]


def test_pauses_between_attempts_grow_and_are_bounded(tmp_path):
    pauses = []
    server, sites, _ = waiting_server(tmp_path, pause=pauses.append)
    sites.fails = failing(("north", TRAIN, 1), ("south", TRAIN, 1), times=12)
    server.run()
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == attempts.LONGEST_PAUSE
    assert pauses == sorted(pauses)


def test_a_run_that_is_told_to_stop_ends_between_attempts_and_can_go_on(tmp_path):
    whole, _, _ = waiting_server(tmp_path)
    whole.run()
    stop = []
    server, sites, _ = waiting_server(tmp_path / "other", should_stop=lambda: bool(stop))

    def fails(site, message_type, number):
        if (message_type, number) == (TRAIN, 3):
            stop.append(True)
            return "its disk is full"
        return None

    sites.fails = fails
    with pytest.raises(StoppedError, match="resume"):
        server.run()
    assert [line["round"] for line in roster(server)] == [1, 2]
    stop.clear()
    sites.fails = failing()
    server.run()
    lines = roster(server)
    assert lines[2]["attempts"] == 2, "the attempt before the stop counts"
    lines[2]["attempts"] = 1
    assert lines == roster(whole)
    assert server.files()["model.safetensors"] == whole.files()["model.safetensors"]


# --- the beginning, and going on ------------------------------------------------------------------


def test_a_run_waits_for_its_minimum_and_says_whom_it_misses(tmp_path):
    server, sites, _ = waiting_server(tmp_path)
    refused = failing(*[(site, HELLO, 0) for site in FOUR[1:]], answer="not approved yet", times=2)
    sites.fails = refused
    server.run()
    assert len(server.watcher.waits) == 2
    _, missing, why = server.watcher.waits[0]
    assert "1 sites answered, the study needs 3" in why
    assert set(missing.values()) == {"not approved yet"}


def test_a_run_goes_on_with_fewer_sites_and_takes_the_others_back(tmp_path):
    server, sites, _ = waiting_server(tmp_path, back_after=2)
    places = []

    def kill(what):
        if what == f"after {TRAIN} at east" and len(roster(server)) == 1:
            places.append(what)
            raise Killed(what)

    (server.path / "roster.jsonl").touch()
    sites.tick = kill
    with pytest.raises(Killed):
        server.run()
    assert places
    sites.tick = lambda what: None
    sites.away = {"north"}
    server.settings["attendance_of"] = lambda joined: Present(sites, joined, 2)
    came_back = []

    def back(site, message_type, number):
        if number == 3:
            sites.away.clear()
            came_back.append(site)

    sites.fails = back
    server.run()
    lines = roster(server)
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    assert lines[1]["invited"] == ["east", "south", "west"]
    assert [one["site"] for one in lines[1]["absent"]] == ["north"]
    assert lines[3]["invited"] == list(FOUR)
    assert came_back


def test_a_server_killed_between_attempts_counts_them_on(tmp_path):
    server, sites, _ = waiting_server(tmp_path)
    sites.fails = failing(("north", TRAIN, 2), ("south", TRAIN, 2), times=4)
    waited = []

    class Deadly(Present):
        def missed(self, missing):
            super().missed(missing)
            waited.append(missing)
            if missing and len(waited) in {4, 5}:
                raise Killed

    server.settings["attendance_of"] = lambda joined: Deadly(sites, joined, 1)
    outcome = None
    deaths = 0
    while outcome is None:
        try:
            outcome = server.run()
        except Killed:
            deaths += 1
    assert deaths == 2
    assert [line["attempts"] for line in roster(server)] == [1, 5, 1, 1]


def test_everyone_is_asked_each_time_in_a_simulation():
    attendance = Everyone({1: "a", 2: "b"})
    attendance.missed({"a": "dead"})
    assert attendance.invited(5) == {1: "a", 2: "b"}
    assert attendance.waits is False


def test_without_an_attendance_nobody_is_waited_for(tmp_path):
    sites = PlainSites(FOUR)
    server = Server(tmp_path / "run", study_of(), sites)
    sites.away = {"north", "south"}
    with pytest.raises(NotEnoughSitesError, match="2 sites answered, the study needs 3"):
        server.run()
    assert server.watcher.opened_attempts == server.watcher.waits == []


# --- secure aggregation ---------------------------------------------------------------------------


def test_secure_rounds_wait_too_and_fewer_than_the_roster_may_be_invited(tmp_path, monkeypatch):
    monkeypatch.setattr(secure_attempt, "PAUSE_SECONDS", 0.0)
    study = study_of(secure=True)
    sites = SecureSites(study, 4)
    sites.sites = sites.cohort.names
    made = []

    def attendance_of(joined):
        made.append(Present(sites, joined, 3))
        return made[-1]

    server = Server(tmp_path / "run", study, sites, attendance_of=attendance_of)
    gone = sites.cohort.names[-1]
    ask_each = sites.ask_each
    silent = []

    def ask(requests, *, group, deadline):
        # In round 2 the last site is silent, and a second one the first time only.
        for answer in ask_each(requests, group=group, deadline=deadline):
            name, kind = sites.names[answer.node_id], requests[answer.node_id][0]
            if (group, kind) == ("2", TRAIN) and name == gone:
                continue
            if (group, kind) == ("2", TRAIN) and name == sites.cohort.names[1] and not silent:
                silent.append(name)
                continue
            yield answer

    sites.ask_each = ask
    server.run()
    lines = roster(server)
    assert [len(line["aggregated"]) for line in lines] == [4, 3, 3, 3]
    assert lines[1]["attempts"] == 2
    assert made[0].needed[0] == sites.cohort.roster.threshold == 3
    assert [one["site"] for one in lines[1]["dropped"]] == [gone]
    told = participation_in(server.path, sites=sites.cohort.names, planned=4)
    assert told.sentence.startswith("3 of 4 sites took part in 4 of 4 rounds; hospital-03 in ")
