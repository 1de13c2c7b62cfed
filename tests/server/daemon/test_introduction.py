"""The first two messages of a run: who says who he is, and who holds the same roster."""

import dataclasses

import pytest
from flwr.app import ConfigRecord, RecordDict
from scripted_nodes import Network, Node

from wardround_server.daemon.delivery import Delivery
from wardround_server.daemon.introduction import GATHERING_SECONDS, Introduction
from wardround_server.greeting import greet
from wardround_shared import __version__
from wardround_shared.agreement import TERMS, Offer, agreed_record, read_offer, read_terms
from wardround_shared.messages import HELLO, TRAIN, Greeting, Header, greeting_record, read_header
from wardround_shared.secure_aggregation.roster import Roster

HEADER = Header(study_id="ab" * 32, run="run-1", round=0)
SITES = ("east", "north", "west")
ROSTER = Roster.of({site: bytes([n]) * 32 for n, site in enumerate(SITES, start=1)})
OTHER = Roster.of({site: bytes([n]) * 32 for n, site in enumerate(SITES, start=7)})


class Site:
    """What a hospital's site answers in a consortium."""

    def __init__(self, name, *, digest=ROSTER.digest):
        self.name = name
        self.digest = digest
        self.heard = []

    def __call__(self, kind, content):
        self.heard.append((kind, content))
        if kind == HELLO:
            return greeting_record(Greeting(site=self.name, software=__version__, shapes=((3,),)))
        if kind == TERMS:
            return agreed_record(self.digest)
        return RecordDict({"said": ConfigRecord({"to": kind})})


class Scene:
    def __init__(self, *sites, **settings):
        self.sites = sites
        nodes = [Node(n, answers=site) for n, site in enumerate(sites, start=1)]
        self.network = Network(*nodes)
        self.versions = 0
        self.greeted = []
        self.introduction = Introduction(
            delivery=Delivery(self.network, clock=self.network.clock, sleep=self.network.sleep),
            offer=self.offer,
            expected=len(sites),
            site_of=dict(enumerate(SITES, start=1)).get,
            greeted=lambda site, offer: self.greeted.append((site, offer.roster)),
            **({"roster": ROSTER} | settings),
        )

    def offer(self):
        self.versions += 1
        return Offer(study="the study", roster=f"roster {self.versions}")

    def joined(self, **settings):
        return greet(self.introduction, HEADER, minimum_sites=1, deadline=100.0, **settings)


def why(joined):
    return {one.site: one.why for one in joined.absent}


@pytest.fixture
def scene():
    return Scene(*map(Site, SITES))


def test_each_site_gets_study_and_roster_and_then_the_sites_of_the_run(scene):
    assert list(scene.joined().names.values()) == list(SITES)
    for site in scene.sites:
        (hello, offered), (terms, named) = site.heard
        assert (hello, terms) == (HELLO, TERMS)
        assert read_offer(offered) == Offer(study="the study", roster="roster 1")
        assert read_terms(named) == SITES
        assert read_header(offered) == read_header(named) == HEADER


def test_a_roster_that_has_changed_since_is_what_is_offered(scene):
    scene.joined()
    scene.joined()
    assert read_offer(scene.sites[0].heard[2][1]).roster == "roster 2"
    assert sorted(scene.greeted) == sorted(
        (site, f"roster {version}") for site in SITES for version in (1, 2)
    )


def test_without_a_roster_no_terms_are_sent():
    scene = Scene(*map(Site, SITES), roster=None)
    assert list(scene.joined().names.values()) == list(SITES)
    assert [kind for kind, _ in scene.sites[0].heard] == [HELLO]


def test_a_greeting_under_another_site_s_name_is_refused():
    scene = Scene(Site("east"), Site("east"), Site("west"))
    joined = scene.joined()
    assert joined.names == {1: "east", 3: "west"}
    assert why(joined)["node 2"] == "it calls itself east, and its key is north's"
    assert [site for site, _ in scene.greeted] == ["east", "west"]
    assert [kind for kind, _ in scene.sites[1].heard] == [HELLO], "it has got the terms"


def test_a_node_whose_key_is_nobody_s_is_refused():
    scene = Scene(*map(Site, SITES))
    scene.introduction.site_of = {1: "east", 2: "north"}.get
    joined = scene.joined()
    assert list(joined.names.values()) == ["east", "north"]
    assert "nobody's in the roster" in why(joined)["node 3"]


def test_a_site_that_holds_another_roster_of_the_run_is_refused():
    scene = Scene(Site("east"), Site("north", digest=OTHER.digest), Site("west"))
    joined = scene.joined()
    assert list(joined.names.values()) == ["east", "west"]
    assert "another roster" in why(joined)["node 2"]


@pytest.mark.parametrize("digest", [b"", ROSTER.digest[:-1], ROSTER.digest + b"\0"])
def test_half_a_digest_is_another_one(digest):
    scene = Scene(Site("east", digest=digest))
    assert scene.joined().names == {}


def test_a_site_with_another_release_is_refused_and_gets_no_terms():
    class Old(Site):
        def __call__(self, kind, content):
            super().__call__(kind, content)
            return greeting_record(Greeting(site=self.name, software="0.0.1", shapes=((3,),)))

    scene = Scene(Site("east"), Old("north"))
    joined = scene.joined()
    assert list(joined.names.values()) == ["east"]
    assert "The site north runs wardround 0.0.1" in why(joined)["node 2"]
    assert [kind for kind, _ in scene.sites[1].heard] == [HELLO]


def test_garbage_in_the_place_of_an_agreement_is_refused():
    class Garbled(Site):
        def __call__(self, kind, content):
            return RecordDict() if kind == TERMS else super().__call__(kind, content)

    scene = Scene(Site("east"), Garbled("north"))
    joined = scene.joined()
    assert list(joined.names.values()) == ["east"]
    assert "malformed" in why(joined)["node 2"]


def test_garbage_in_the_place_of_a_greeting_is_refused():
    scene = Scene(Site("east"), lambda kind, content: RecordDict())
    joined = scene.joined()
    assert list(joined.names.values()) == ["east"]
    assert "malformed" in why(joined)["node 2"]


def test_a_site_that_refuses_the_study_says_why_and_gets_no_terms():
    scene = Scene(*map(Site, SITES))
    scene.network.known[2].refuses = "not approved yet"
    assert why(scene.joined()) == {"node 2": "not approved yet"}
    assert scene.sites[1].heard == []


def test_nobody_who_greets_gets_no_terms():
    scene = Scene(Site("east"))
    scene.network.known[1].refuses = "no"
    assert scene.joined().names == {}


def test_all_are_waited_for_for_a_while_and_then_those_that_are_there_go_on():
    scene = Scene(*map(Site, SITES))
    scene.network.known[3].online = False
    assert scene.introduction.nodes(at_least=2, deadline=1000) == (1, 2)
    assert scene.network.now == pytest.approx(GATHERING_SECONDS, abs=1)


def test_for_the_minimum_it_waits_as_long_as_it_may():
    scene = Scene(*map(Site, SITES))
    scene.network.known[3].online = False
    scene.network.at(300.0, lambda: setattr(scene.network.known[3], "online", True))
    assert scene.introduction.nodes(at_least=3, deadline=1000) == (1, 2, 3)


def test_it_can_be_confined_to_some_nodes(scene):
    only = dataclasses.replace(scene.introduction, only=(2,))
    joined = greet(only, HEADER, minimum_sites=0, deadline=100.0)
    assert joined.names == {2: "north"}
    assert scene.sites[0].heard == []
    nobody = dataclasses.replace(scene.introduction, only=())
    assert greet(nobody, HEADER, minimum_sites=0, deadline=100.0).names == {}


def test_a_silent_site_delays_a_greeting_by_a_minute_whatever_the_study_s_deadline_is():
    scene = Scene(*map(Site, SITES))
    scene.network.lost = lambda what, number: what == "reply" and number % 3 == 2
    greet(scene.introduction, HEADER, minimum_sites=1, deadline=3600.0)
    assert scene.network.now < 200


def test_other_messages_are_carried_as_they_are(scene):
    content = RecordDict({"c": ConfigRecord({"n": 1})})
    answers = list(scene.introduction.ask((1,), TRAIN, content, group="1", deadline=10.0))
    assert [answer.node_id for answer in answers] == [1]
    ((kind, heard),) = scene.sites[0].heard
    assert (kind, heard["c"]) == (TRAIN, content["c"])
    requests = {2: (TRAIN, content)}
    (answer,) = scene.introduction.ask_each(requests, group="1", deadline=10.0)
    assert answer.node_id == 2
