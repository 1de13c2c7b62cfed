"""The sites of a run: waited for, found once, and held on to whatever happens to the file."""

import json

import pytest
from scripted_nodes import Network, Node

from wardround_server.daemon.delivery import Delivery
from wardround_server.daemon.introduction import Introduction
from wardround_server.daemon.terms import TERMS, gather, known_roster
from wardround_server.observer import Observer
from wardround_server.run_folder import RunFolder
from wardround_shared import __version__
from wardround_shared.agreement import Offer
from wardround_shared.errors import RunFolderError, StoppedError
from wardround_shared.messages import Greeting, Header, greeting_record
from wardround_shared.secure_aggregation.faults import FloorError
from wardround_shared.secure_aggregation.roster import Roster
from wardround_shared.study import load_study

HEADER = Header(study_id="ab" * 32, run="run-1", round=0)
SITES = ("east", "north", "south", "west")
IDENTITIES = {site: bytes([n]) * 32 for n, site in enumerate(SITES, start=1)}


class Waiting(Observer):
    def __init__(self):
        self.waited = []

    def waiting(self, round_number, sites, why):
        self.waited.append((dict(sites), why))


class Scene:
    def __init__(self, study_file, folder, *, minimum=3):
        overrides = ["aggregation.secure=true", f"aggregation.minimum-sites={minimum}"]
        self.study = load_study(study_file, overrides)
        self.folder = RunFolder.create(folder)
        self.network = Network(
            *(Node(n, answers=_greeting(site)) for n, site in enumerate(SITES, start=1))
        )
        self.nodes = dict(zip(SITES, self.network.known.values(), strict=True))
        self.identities = dict(IDENTITIES)
        self.observer = Waiting()

    def gather(self, wanted=(), check=lambda: None):
        delivery = Delivery(self.network, clock=self.network.clock, sleep=self.network.sleep)
        introduction = Introduction(
            delivery=delivery,
            offer=lambda: Offer(study="s", roster="r"),
            expected=len(wanted) or self.study.aggregation.minimum_sites,
            site_of=dict(enumerate(SITES, start=1)).get,
        )
        return gather(
            introduction,
            HEADER,
            study=self.study,
            identities=lambda: self.identities,
            wanted=wanted,
            folder=self.folder,
            observer=self.observer,
            check=check,
            sleep=self.network.sleep,
        )

    def away(self, *sites):
        for site in sites:
            self.nodes[site].online = False

    def comes(self, site, at):
        self.network.at(at, lambda: setattr(self.nodes[site], "online", True))


def _greeting(site):
    return lambda *_: greeting_record(Greeting(site=site, software=__version__, shapes=((3,),)))


@pytest.fixture
def scene(study_file, tmp_path):
    return Scene(study_file, tmp_path / "run")


def test_the_roster_is_on_disk_when_it_is_formed(scene):
    roster = scene.gather()
    assert roster == Roster.of(IDENTITIES, minimum_sites=3)
    assert known_roster(scene.folder) == roster
    content = json.loads((scene.folder.path / TERMS).read_text())
    assert content["sites"] == list(SITES)


def test_the_study_s_minimum_is_in_the_roster(study_file, tmp_path):
    assert Scene(study_file, tmp_path / "run", minimum=4).gather().threshold == 4


def test_it_waits_until_there_are_enough_and_says_for_whom(scene):
    scene.away("north", "south")
    scene.nodes["west"].refuses = "not approved yet"
    scene.comes("north", 300)
    scene.comes("south", 600)
    assert scene.gather().sites == ("east", "north", "south")
    assert scene.network.now > 600
    sites, why = scene.observer.waited[0]
    assert (sites, why) == (
        {"node 4": "not approved yet"},
        "1 of 3 sites are there to begin with.",
    )
    assert scene.observer.waited[-1][1].startswith("2 of 3")


def test_the_sites_that_were_named_are_waited_for_and_nobody_else_takes_part(scene):
    scene.away("north")
    scene.comes("north", 500)
    roster = scene.gather(wanted=("west", "north", "east"))
    assert roster.sites == ("east", "north", "west")
    assert scene.observer.waited[0][0]["north"] == "not connected"
    assert "not in the roster of this run" in scene.observer.waited[0][0]["south"]


def test_too_few_named_sites_end_with_the_reason(scene):
    with pytest.raises(FloorError, match="3 to"):
        scene.gather(wanted=("east", "north"))
    assert known_roster(scene.folder) is None


def test_a_site_that_was_revoked_after_it_greeted_is_not_in_the_run(scene):
    del scene.identities["south"]
    assert scene.gather().sites == ("east", "north", "west")


def test_a_site_that_was_admitted_meanwhile_is_in_the_run(scene):
    scene.identities = {site: IDENTITIES[site] for site in ("east", "north")}
    scene.network.at(100.0, lambda: scene.identities.update(IDENTITIES))
    assert scene.gather().sites == SITES


def test_whoever_waits_can_be_told_to_stop(scene):
    def check():
        if scene.network.now > 200:
            raise StoppedError("stop")

    scene.away(*SITES)
    with pytest.raises(StoppedError):
        scene.gather(check=check)
    assert not (scene.folder.path / TERMS).exists()


def test_a_new_run_has_no_terms(scene):
    assert known_roster(scene.folder) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: '{"roster": 7}',
        lambda text: '{"roster": "zz"}',
        lambda text: '{"roster": ""}',
        lambda text: text.replace('"roster": "0003', '"roster": "0001'),
        lambda text: text.replace('"roster": "0003', '"roster": "00030a'),
        lambda text: "\ud800",
    ],
)
def test_damaged_terms_are_not_made_anew(scene, damage):
    """Sites hold on to the first ones: a run with others could never be ended."""
    scene.gather()
    file = scene.folder.path / TERMS
    changed = damage(file.read_text())
    assert changed != file.read_text()
    file.write_bytes(changed.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunFolderError, match=r"terms\.json: the terms of this run are damaged"):
        known_roster(scene.folder)
