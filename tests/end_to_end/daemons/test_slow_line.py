"""Hospitals behind a bad line: slow, long, lossy, and gone for a while in the middle of a round."""

import subprocess
import sys
import time

import pytest
from daemons import Consortium, Server, started, until
from slow_lines import Machines, inside, why_not

SITES = ("north", "south", "west")
BITS, ONE_WAY, LOSS = 4e6, 0.1, 0.02
"""4 Mbit/s; 200 ms there and back; 2 % of packets."""

ROUNDS = 2
OF_A_RUN = (
    "aggregation.secure=true",
    "aggregation.minimum-sites=3",
    "privacy.mechanism=none",
    f"training.rounds={ROUNDS}",
)

pytestmark = [pytest.mark.timeout(600), pytest.mark.long_form]


@pytest.fixture(scope="module")
def machines():
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with Machines(len(SITES), bits=BITS, seconds=ONE_WAY, loss=LOSS) as made:
        yield made


@pytest.fixture(scope="module")
def consortium(folder, machines):
    server = Server(folder, host=machines.address, listen="0.0.0.0")
    made = Consortium.found(folder, SITES, server=server, allow_without_privacy="true")
    server.prefix = inside(machines.server)
    for site, namespace in zip(made.sites.values(), machines.sites, strict=True):
        site.prefix = inside(namespace)
    with started(made):
        yield made


def test_the_line_is_as_bad_as_it_says(machines, consortium):
    """Else the test below shows nothing."""
    where = (machines.address, consortium.server.port)
    code = f"import socket; socket.create_connection({where!r})"
    best = 99.0
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([*inside(machines.sites[0]), sys.executable, "-c", code], check=True)
        best = min(best, time.monotonic() - began)
    assert best >= 2 * ONE_WAY


def test_a_run_over_a_bad_line_that_is_cut_for_a_minute_finishes(consortium, machines, study):
    north = consortium.sites["north"]
    run = consortium.submit(study, "far", *OF_A_RUN, "aggregation.deadline=40.0")
    until(
        lambda: ("trained", 1) in north.events(run.name),
        "the training of round 1",
        told=consortium.tails,
    )
    with machines.all_cut():
        time.sleep(60)
        assert not run.rounds, "the round had ended before the line was cut"
        assert run.state == "running"
    run.finish(seconds=240)
    assert run.summary["participation"]["rounds"] == ROUNDS
    assert len(run.rounds) == ROUNDS
    assert not run.summary["given_up"]
    assert consortium.audit_faults() == []
    for line in machines.lines:
        assert line.lost > 0.005 * line.passed
