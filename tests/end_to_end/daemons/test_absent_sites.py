"""Sites that stay away, come back, or are not let in: the run goes on, waits, and says so."""

import os

import pytest
from daemons import Consortium, started, until

SITES = ("east", "north", "south", "west")
DEADLINE = 20.0
OF_A_RUN = (
    "aggregation.secure=true",
    "aggregation.minimum-sites=3",
    f"aggregation.deadline={DEADLINE}",
    "privacy.mechanism=none",
)

LIAR = """
import dataclasses
from wardround_shared import messages
honest = messages.greeting_record
messages.greeting_record = lambda greeting: honest(dataclasses.replace(greeting, site="north"))
"""
"""Site software that was changed to greet under another site's name."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def consortium(folder):
    made = Consortium.found(folder, SITES, allow_without_privacy="true")
    with started(made):
        yield made


def line_of(run, number):
    return next((line for line in run.roster if line["round"] == number), None)


def names(lines):
    return {one["site"]: one["why"] for one in lines}


@pytest.mark.long_form
def test_a_greeting_under_another_sites_name_is_not_believed(consortium, study, tmp_path):
    liar = consortium.sites["east"]
    (tmp_path / "sitecustomize.py").write_text(LIAR)
    liar.stop()
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    liar.environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    liar.start()
    run = consortium.submit(study, "liar", *OF_A_RUN, "training.rounds=1")
    why = "it calls itself north, and its key is east's"
    until(
        lambda: why in run.status.get("waiting_for", {}).values(),
        why,
        told=lambda: f"{run.status}\n{consortium.tails()}",
    )
    assert run.state == "running"
    assert run.status["stage"] == "paused"
    paused = [one for one in consortium.server.audit if one["event"] == "paused"]
    assert paused[-1]["run"] == run.name
    # As itself it is taken.
    liar.stop()
    liar.environment = {}
    liar.start()
    run.finish()
    assert run.summary["participation"]["sentence"] == "4 of 4 sites took part in 1 of 1 rounds."


def test_a_site_that_stays_away_costs_one_deadline_and_is_taken_back(consortium, study):
    away = consortium.sites["west"]
    run = consortium.submit(study, "away", *OF_A_RUN, "training.rounds=12")

    # It dies in the middle of a round, which is delayed once; the next ones are not.
    until(lambda: ("trained", 1) in away.events(run.name), "the training of round 1")
    away.power_cut()
    until(lambda: "west" in run.status.get("missing", {}), "west outside", told=consortium.tails)
    left = next(line["round"] for line in run.roster if "west" in names(line["dropped"]))
    away.start()
    run.finish()
    seconds = {line["round"]: line["seconds"] for line in run.rounds}
    assert seconds[left] >= DEADLINE
    assert max(seconds[left + 1], seconds[left + 2]) < DEADLINE
    assert "west" in names(line_of(run, left + 1)["absent"])
    assert line_of(run, left + 1)["aggregated"] == ["east", "north", "south"]

    # It is taken back, and stays.
    assert run.roster[-1]["aggregated"] == ["east", "north", "south", "west"], run.roster
    assert 0 < sum("west" in line["aggregated"] for line in run.roster) < 12
    sentence = run.summary["participation"]["sentence"]
    assert sentence.startswith("3 of 4 sites took part in 12 of 12 rounds; west in ")
    events = [(one["event"], one.get("site")) for one in consortium.server.audit]
    assert events.index(("dropped", "west")) < events.index(("returned", "west"))
    assert consortium.audit_faults() == []


@pytest.mark.long_form
def test_with_too_few_sites_the_run_waits_and_says_for_whom(consortium, study):
    away, other = consortium.sites["west"], consortium.sites["south"]
    run = consortium.submit(study, "too-few", *OF_A_RUN, "training.rounds=16")
    until(lambda: ("trained", 1) in away.events(run.name), "the training of round 1")
    away.power_cut()
    other.power_cut()
    until(lambda: run.status["stage"] == "paused", "the pause", told=lambda: str(run.status))
    until(
        lambda: {"south", "west"} <= set(run.status["waiting_for"]),
        "whom it waits for",
        told=lambda: str(run.status),
    )
    assert run.state == "running"
    shown = consortium.server("status")
    assert "paused" in shown
    assert "south" in shown
    stood = run.status["round"]

    # The first is back: that is enough. Then all.
    away.start()
    until(lambda: line_of(run, stood), "the round without south", told=consortium.tails)
    assert line_of(run, stood)["aggregated"] == ["east", "north", "west"]
    other.start()
    run.finish()
    assert run.roster[-1]["aggregated"] == ["east", "north", "south", "west"], run.roster
    rounds = sum("south" in line["aggregated"] for line in run.roster)
    assert 0 < rounds < 16
    assert f"south in {rounds} only (" in run.summary["participation"]["sentence"]
    assert any(
        (one["event"], one.get("run")) == ("paused", run.name) for one in consortium.server.audit
    )
    assert not run.summary["given_up"]


def test_a_site_that_is_revoked_while_a_run_goes_on_is_out_of_it(consortium, study):
    consortium.wait_online(*SITES)
    run = consortium.submit(study, "revoked", *OF_A_RUN, "training.rounds=5")
    run.reach(2)
    consortium.server("revoke", "east", "--yes")
    run.finish()
    assert run.roster[-1]["aggregated"] == ["north", "south", "west"]
    rounds = sum("east" in line["aggregated"] for line in run.roster)
    assert rounds < 5
    part = run.summary["participation"]
    assert part["sentence"].startswith("3 of 4 sites took part in 5 of 5 rounds; east in ")
    assert part["per_site"]["east"]["rounds"] == rounds

    revoked = [one for one in consortium.server.audit if one["event"] == "revoked"]
    assert [one["site"] for one in revoked] == ["east"]
    assert "east" not in {one["site"] for one in consortium.server.overview()["sites"]}
    east = consortium.sites["east"]
    # Its connection is refused, again and again, and its log says so.
    until(
        lambda: (
            any("the site was revoked" in why for why in east.refusals())
            and "Failed to activate SuperNode" in east.tail(200)
        ),
        "the refusal at the site",
        told=east.tail,
    )
    assert east.running
    assert consortium.audit_faults() == []
