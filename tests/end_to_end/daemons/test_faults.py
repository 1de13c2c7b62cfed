"""Whatever is killed, at whatever step: the run goes on, with the same model, paid for once.

Without noise, a run in which processes were killed has to end with the very bytes of the model of a
run in which none was. A kill happens at a step: when a line with an event and a round has appeared
in the audit log of a site. Which step and which site, a seed says; `WARDROUND_FAULT_SEED` sets it.
"""

import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass

import pytest
from daemons import RUNNER, SUPERLINK, SUPERNODE, WORKER, Consortium, Run, started, until

SITES = ("north", "south", "west")
ROUNDS = 4
DEADLINE = 40
OF_A_RUN = (
    "aggregation.secure=true",
    "aggregation.minimum-sites=3",
    f"aggregation.deadline={DEADLINE}.0",
    f"training.rounds={ROUNDS}",
)
CLEAR = ("privacy.mechanism=none", "training.local-epochs=2")
SEED = int(os.environ.get("WARDROUND_FAULT_SEED", "5"))

STEPS = ("trained", "unmasked", "round")
"""What has just happened when something is killed: at a site, or, a round's end, at the server."""

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Kill:
    """What is killed, when this site has done this in this round."""

    victim: str
    site: str
    event: str
    round: int

    def __str__(self):
        return f"{self.victim} ({self.site}) after '{self.event}' of round {self.round}"


@pytest.fixture(scope="module")
def consortium(folder):
    made = Consortium.found(folder, SITES, allow_without_privacy="true")
    with started(made):
        yield made


@pytest.fixture(scope="module")
def uninterrupted(consortium, study):
    """A run that nobody has disturbed."""
    run = consortium.submit(study, "calm", *OF_A_RUN, *CLEAR)
    run.finish()
    assert run.summary["participation"]["sentence"] == "3 of 3 sites took part in 4 of 4 rounds."
    return run


def drawn(rng, victims):
    """A kill for each victim, one after the other through the rounds."""
    kills = []
    for number, victim in enumerate(victims, start=1):
        kills.append(Kill(victim, rng.choice(SITES), rng.choice(STEPS), number))
    return kills


def carry_out(consortium: Consortium, run: Run, kill: Kill):
    """Wait for the step, kill, and start again what does not come up by itself."""
    server, site = consortium.server, consortium.sites[kill.site]
    where = server if kill.event == "round" else site
    until(
        lambda: (kill.event, kill.round) in where.events(run.name) or run.ended,
        f"{kill} in {run.name}",
        told=lambda: f"{run.record}\n{run.status}\n{consortium.tails()}",
    )
    assert run.state == "running", f"the run has ended before {kill}"
    if kill.victim == "stop":
        server("stop", run.name)
        until(lambda: server.child(RUNNER) is None, "the end of the runner", seconds=30)
        server("resume", run.name)
    elif kill.victim in {"superlink", "runner"}:
        server.kill_child({"superlink": SUPERLINK, "runner": RUNNER}[kill.victim])
    elif kill.victim in {"worker", "supernode"}:
        site.kill_child({"worker": WORKER, "supernode": SUPERNODE}[kill.victim])
    else:
        daemon = server if kill.victim.endswith("server") else site
        (daemon.power_cut if kill.victim.startswith("machine of") else daemon.kill)()
        daemon.start()


def interrupted(consortium, study, name, kills, *overrides, told):
    """A run in which all of this happens, up to its end."""
    run = consortium.submit(study, name, *OF_A_RUN, *overrides)
    began = time.monotonic()
    for kill in kills:
        carry_out(consortium, run, kill)
        told.append(f"{time.monotonic() - began:.1f} s: killed {kill}")
    run.finish(seconds=240)
    told.append(f"{time.monotonic() - began:.1f} s: finished")
    return run


@pytest.fixture
def told():
    """What was done, shown when the test fails."""
    lines = [f"seed {SEED}; set WARDROUND_FAULT_SEED to draw other steps"]
    yield lines
    sys.stdout.write("\n".join(lines))  # pytest shows it of a test that has failed


def check_whole(consortium, run):
    """Each round once, by all sites; no audit log is broken."""
    assert [line["round"] for line in run.rounds] == list(range(1, ROUNDS + 1))
    assert [line["round"] for line in run.roster] == list(range(1, ROUNDS + 1))
    summary = run.summary
    assert next(iter(summary)) == "participation"
    assert summary["participation"]["rounds"] == ROUNDS
    assert not summary["given_up"]
    assert consortium.audit_faults() == []


def check_paid_once(consortium, run):
    """One payment for each round that a site has trained, and none is left open."""
    for site in consortium.sites.values():
        payments = site.payments(run.name)
        assert Counter(number for number, _ in payments) == Counter(range(1, ROUNDS + 1))
        assert {state for _, state in payments} == {"committed"}


# --- the short form ------------------------------------------------------------------------------


def test_a_run_that_was_stopped_and_in_which_processes_were_killed_has_the_very_same_model(
    consortium, study, uninterrupted, told
):
    victims = ("stop", "runner", "superlink", "machine of the server")
    rng = random.Random(f"{SEED}/{victims}")
    run = interrupted(consortium, study, "killed", drawn(rng, victims), *CLEAR, told=told)
    check_whole(consortium, run)
    assert run.model == uninterrupted.model, told


def test_a_round_is_paid_for_once_whatever_was_killed_in_it(consortium, study, told):
    rng = random.Random(f"{SEED}/paid")
    kills = [
        Kill("worker", rng.choice(SITES), "reserved", 1),
        Kill("supernode", rng.choice(SITES), "trained", 2),
        Kill("machine of a site", rng.choice(SITES), "reserved", 3),
    ]
    run = interrupted(consortium, study, "paid", kills, told=told)
    check_whole(consortium, run)
    check_paid_once(consortium, run)


@pytest.mark.long_form
def test_a_run_that_was_stopped_and_resumed_has_the_very_same_model(
    consortium, study, uninterrupted
):
    run = consortium.submit(study, "stopped", *OF_A_RUN, *CLEAR)
    run.reach(2)
    consortium.server("stop", run.name)
    until(lambda: consortium.server.child(RUNNER) is None, "the end of the runner", seconds=30)
    done = len(run.rounds)
    assert run.state == "stopped"
    assert 0 < done < ROUNDS
    time.sleep(2)
    assert (len(run.rounds), run.state) == (done, "stopped")
    consortium.server("resume", run.name)
    run.finish()
    check_whole(consortium, run)
    assert run.model == uninterrupted.model
    events = [one["event"] for one in consortium.server.audit if one.get("run") == run.name]
    assert events.index("stopped") < events.index("resumed") < events.index("finished")


# --- the long form -------------------------------------------------------------------------------

VICTIMS = (
    "runner",
    "superlink",
    "server",
    "machine of the server",
    "worker",
    "supernode",
    "site",
    "machine of a site",
)


@pytest.mark.long_form
@pytest.mark.parametrize("step", STEPS, ids=str)
@pytest.mark.parametrize("victim", VICTIMS)
def test_each_process_killed_at_each_step_of_several_rounds(  # noqa: PLR0917 - fixtures
    consortium, study, uninterrupted, told, victim, step
):
    rng = random.Random(f"{SEED}/{victim}/{step}")
    kills = [Kill(victim, rng.choice(SITES), step, number) for number in (1, 2, 4)]
    name = f"{victim}-{step}".replace(" ", "-")
    run = interrupted(consortium, study, name, kills, *CLEAR, told=told)
    check_whole(consortium, run)
    assert run.model == uninterrupted.model, told


@pytest.mark.long_form
@pytest.mark.parametrize("victim", VICTIMS)
def test_each_process_killed_while_the_final_model_is_evaluated(
    consortium, study, uninterrupted, told, victim
):
    rng = random.Random(f"{SEED}/{victim}/last")
    last = Kill(victim, rng.choice(SITES), "evaluated", ROUNDS + 1)
    name = f"{victim}-evaluate".replace(" ", "-")
    run = interrupted(consortium, study, name, [last], *CLEAR, told=told)
    check_whole(consortium, run)
    assert run.model == uninterrupted.model, told
    assert run.summary["metrics"] == uninterrupted.summary["metrics"]


@pytest.mark.long_form
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("event", ["reserved", "trained"])
def test_each_process_killed_before_and_after_a_site_has_trained_privately(
    consortium, study, told, victim, event
):
    rng = random.Random(f"{SEED}/{victim}/{event}")
    kills = [Kill(victim, rng.choice(SITES), event, number) for number in (2, 4)]
    name = f"{victim}-{event}-privately".replace(" ", "-")
    # Each of these studies is charged to the same patients.
    run = interrupted(consortium, study, name, kills, "privacy.epsilon=0.3", told=told)
    check_whole(consortium, run)
    check_paid_once(consortium, run)


@pytest.mark.long_form
def test_kills_at_random_moments_change_nothing(consortium, study, uninterrupted, told):
    rng = random.Random(f"{SEED}/moments")
    for number in range(4):
        run = consortium.submit(study, f"moments-{number}", *OF_A_RUN, *CLEAR)
        run.reach(1)
        for _ in range(4):
            time.sleep(rng.uniform(0.1, 6))
            if run.state != "running":
                break
            victim, site = rng.choice(VICTIMS), rng.choice(SITES)
            last = consortium.sites[site].events(run.name)[-1]
            told.append(f"{victim} ({site}) some time after {last}")
            carry_out(consortium, run, Kill(victim, site, *last))
        run.finish(seconds=240)
        check_whole(consortium, run)
        assert run.model == uninterrupted.model, told
