from killed_server import PlainSites

from wardround_server.exchange import Answer
from wardround_server.greeting import greet
from wardround_shared.messages import Greeting, Header, greeting_record

HEADER = Header(study_id="s", run="r", round=0)


def _greet(sites, **settings):
    return greet(sites, HEADER, minimum_sites=2, deadline=1.0, **settings)


class Named(PlainSites):
    """Sites with shapes of their own, in the order of their nodes."""

    def __init__(self, *greeted):
        super().__init__([site for site, _ in greeted])
        self.names = dict(enumerate(greeted))

    def nodes(self, **_):
        return tuple(self.names)

    def ask(self, nodes, message_type, content, **_):
        for node in nodes:
            site, shapes = self.names[node]
            greeting = Greeting(site=site, software="0", shapes=shapes)
            yield Answer(node_id=node, content=greeting_record(greeting))


def test_a_site_that_refuses_says_why_and_one_that_is_silent_is_not_forgotten():
    sites = PlainSites(("east", "north", "west"))
    sites.fails = lambda site, *_: {"north": "not approved yet", "west": ""}.get(site)
    joined = _greet(sites)
    assert list(joined.names.values()) == ["east"]
    assert {drop.why for drop in joined.absent} == {
        "not approved yet",
        "it has not answered the first message",
    }
    sites.fails = lambda *_: None
    assert list(_greet(sites).names.values()) == ["east", "north", "west"]


def test_only_sites_of_the_roster_join():
    joined = _greet(PlainSites(("east", "north", "west")), members={"east", "west"})
    assert list(joined.names.values()) == ["east", "west"]
    (left,) = joined.absent
    assert left.site == "north"
    assert "not in the roster" in left.why


def test_an_odd_site_leaves_itself_out_and_not_all_the_others():
    joined = _greet(Named(("a", ((3,),)), ("b", ((2,),)), ("c", ((2,),))))
    assert list(joined.names.values()) == ["b", "c"]
    assert joined.shapes == ((2,),)
    assert "shape 3, others 2" in joined.absent[0].why


def test_the_shapes_of_a_run_stay_whoever_comes_back():
    joined = _greet(Named(("a", ((3,),)), ("b", ((3,),)), ("c", ((2,),))), shapes=((2,),))
    assert list(joined.names.values()) == ["c"]
    assert joined.shapes == ((2,),)


def test_of_two_nodes_with_one_name_one_takes_part():
    joined = _greet(Named(("a", ((2,),)), ("a", ((2,),)), ("b", ((2,),))))
    assert joined.names == {0: "a", 2: "b"}
    assert joined.absent[0].why == "a second node has this name"


def test_nobody_there_is_no_error():
    sites = PlainSites(("east",))
    sites.away = {"east"}
    joined = _greet(sites)
    assert (joined.names, joined.absent, joined.shapes) == ({}, (), ())
