"""From nothing to an exported model: three hospitals over TLS, as their people would do it.

The heart-disease study on the data of three real hospitals where they are there, else a small study
on tables that are written on the spot. Secure aggregation and differential privacy are on.
"""

import json
import os
import shutil
import ssl
import time
import urllib.request
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

import pytest
from daemons import DATA_SET, Consortium, Daemon, Run, Server, started, until

from wardround_server.run_folder import read_model
from wardround_shared.study import load_study
from wardround_simulations.report import write_report

ROUNDS = 4
OF_A_RUN = (
    "aggregation.secure=true",
    "aggregation.minimum-sites=3",
    "aggregation.deadline=60.0",
    f"training.rounds={ROUNDS}",
)
ROOT = Path(__file__).parents[3]
REAL = ("cleveland", "hungarian", "va")
WRITTEN = ("north", "south", "west")

pytestmark = pytest.mark.timeout(600)


@dataclass
class Story:
    """What happened, and what was seen while it did."""

    consortium: Consortium
    run: Run
    before_approval: dict = field(default_factory=dict)
    statements: list[str] = field(default_factory=list)
    while_running: list[dict] = field(default_factory=list)
    metrics: str = ""


@pytest.fixture(scope="module")
def real_data():
    folder = Path(os.environ.get("WARDROUND_TEST_DATA", ROOT.parent / "shared" / "data"))
    found = folder / "heart-disease-uci"
    return found if (found / "processed.cleveland.data").exists() else None


@pytest.fixture(scope="module")
def consortium(folder, real_data):
    made = Consortium(folder=folder, server=Server(folder))
    for name in REAL if real_data else WRITTEN:
        data = None
        if real_data:
            data = folder / "data" / name
            data.mkdir(parents=True)
            shutil.copy(real_data / f"processed.{name}.data", data)
        made.add(name, data=data)
    with started(made):
        yield made


@pytest.fixture(scope="module")
def story(consortium, study, real_data):
    server, sites = consortium.server, consortium.sites.values()
    if real_data:
        study = ROOT / "simulations" / "studies" / "heart-disease.toml"
    run = consortium.submit(study, "whole", *OF_A_RUN, approve=False)
    told = Story(consortium=consortium, run=run)

    def offered():
        return all(json.loads(site("study", "list", "--json")) for site in sites)

    until(offered, "the study at each site", told=consortium.tails)
    until(lambda: run.status.get("waiting_for"), "whom the run waits for")
    told.before_approval = server.overview()["runs"][0]
    for site in sites:
        told.statements.append(site("study", "show", run.study_id[:8], "--data", DATA_SET))
        site("study", "approve", run.study_id[:8], "--data", DATA_SET, "--yes")
    while not run.ended:
        told.while_running.append(server.overview()["runs"][0]["progress"])
        if not told.metrics and run.status.get("round", 0) > 1:
            told.metrics = read_metrics(server.metrics_port)
        time.sleep(0.1)
    run.finish()
    return told


def read_metrics(port):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return answer.read().decode()


# --- idle: before anything is asked --------------------------------------------------------------


def memory(pids, kind):
    """Megabytes of these processes: `Rss`, or `Pss`, where what is shared counts once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{kind}:"):
                total += int(line.split()[1])
    return total / 1000


def seconds_of_work(pids):
    """Processor time that these processes have taken."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def share_of_a_core(daemon: Daemon, seconds):
    pids = daemon.processes()
    assert len(pids) == 3
    before, began = seconds_of_work(pids), time.monotonic()
    time.sleep(seconds)
    assert daemon.processes() == pids
    return (seconds_of_work(pids) - before) / (time.monotonic() - began)


def test_an_idle_site_takes_little_memory_and_hardly_any_time(consortium, long_form):
    site = next(iter(consortium.sites.values()))
    # It asks less and less often: after twenty seconds every three.
    time.sleep(25 if long_form else 5)
    share = share_of_a_core(site, 20 if long_form else 6)
    pids = site.processes()
    found = f"{memory(pids, 'Rss'):.0f} MB, {memory(pids, 'Pss'):.0f} MB PSS, {share:.2%} of a core"
    assert memory(pids, "Rss") <= 500, found
    assert share <= (0.01 if long_form else 0.06), found


# --- the run -------------------------------------------------------------------------------------


def test_nothing_runs_before_every_hospital_has_approved(story):
    waiting = story.before_approval
    assert waiting["state"] == "running"
    assert waiting["progress"]["round"] == 0
    assert set(waiting["progress"]["waiting_for"]) & set(story.consortium.sites)
    assert any("not approved" in why for why in waiting["progress"]["waiting_for"].values())
    for site in story.consortium.sites.values():
        events = [one["event"] for one in site.audit]
        assert events.index("offered") < events.index("refused") < events.index("approved")
        assert events.index("approved") < events.index("reserved") < events.index("trained")
        refused = [one for one in site.audit if one["event"] == "refused"]
        assert all("has not approved study" in one["reason"] for one in refused)


def test_the_statement_says_what_leaves_and_at_what_cost(story):
    epsilon = load_study(story.run.folder / "study.toml").privacy.epsilon
    for text in story.statements:
        assert f"epsilon {epsilon:g}" in text.lower()
        assert "masked" in text.lower()


def test_the_summary_begins_with_who_took_part(story):
    summary = story.run.summary
    assert next(iter(summary)) == "participation"
    sentence = next(iter(summary["participation"].items()))
    assert sentence == ("sentence", f"3 of 3 sites took part in {ROUNDS} of {ROUNDS} rounds.")
    assert summary["secure_aggregation"] is True
    assert summary["privacy"]["mechanism"] == "dp-sgd"
    assert summary["metrics"]["n"] > 0


def test_every_site_has_paid_once_for_each_round(story):
    for site in story.consortium.sites.values():
        payments = site.payments(story.run.name)
        assert Counter(payments) == Counter(
            (number, "committed") for number in range(1, ROUNDS + 1)
        )
        assert "sound" in site("ledger", "verify")


def test_what_was_spent_is_within_study_and_policy(story):
    study = load_study(story.run.folder / "study.toml")
    for site in story.consortium.sites.values():
        (population,) = json.loads(site("ledger", "show", "--json"))["populations"]
        assert 0 < population["spent"]["epsilon"] <= study.privacy.epsilon
        assert population["spent"]["epsilon"] <= population["cap"]


def test_all_audit_logs_hold_and_tell_of_the_run(story):
    for daemon in story.consortium.daemons:
        daemon("audit", "verify")
    events = Counter(one["event"] for one in story.consortium.server.audit)
    assert events["admitted"] == 3
    assert events["submitted"] == events["finished"] == 1
    assert events["round"] == ROUNDS
    for site in story.consortium.sites.values():
        counted = Counter(one["event"] for one in site.audit)
        assert counted["joined"] == 1
        assert counted["trained"] == counted["reserved"] == ROUNDS


def test_the_status_says_round_and_whom_it_waits_for_while_it_runs(story):
    seen = story.while_running
    numbers = [one.get("round", 0) for one in seen]
    assert numbers == sorted(numbers)
    assert {1, ROUNDS} <= set(numbers)
    rounds = [one for one in seen if one.get("round")]
    waited = {site for one in rounds for site in one["waiting_for"]}
    assert waited == set(story.consortium.sites)


def test_metrics_count_sites_and_rounds(story):
    assert "wardround_" in story.metrics
    assert f'run="{story.run.name}"' in story.metrics


def test_a_finished_run_is_exported_whole(story, tmp_path):
    out = tmp_path / "result"
    said = story.consortium.server("export", story.run.name, "--out", out)
    sentence = story.run.summary["participation"]["sentence"]
    assert said.startswith(sentence)
    assert sentence in (out / "report.md").read_text()
    assert (out / "model.safetensors").read_bytes() == story.run.model
    assert read_model(out)
    assert load_study(out / "study.toml").study_id == story.run.study_id
    assert len((out / "roster.jsonl").read_text().splitlines()) == ROUNDS
    page = write_report(out).read_text()
    assert "by each site&#x27;s own ledger" in page
    assert "only a simulation has them" in page  # what is not there is missing by name


def answer_at(server, path, *, context=None):
    """The status with which the public port answers; None: it hangs up."""
    with suppress(OSError, HTTPException):
        if context is None:
            connection = HTTPConnection("localhost", server.port, timeout=5)
        else:
            connection = HTTPSConnection("localhost", server.port, timeout=5, context=context)
        with closing(connection):
            connection.request("POST", path, body=b"")
            return connection.getresponse().status
    return None


def test_the_public_port_serves_sites_and_nothing_else(story):
    server = story.consortium.server
    context = ssl.create_default_context(cafile=str(server.files.authorities))
    for path in ("/v1/control/start-run", "/v1/runtime/acquire-task", "/", "/docs"):
        assert answer_at(server, path, context=context) == 404
    assert answer_at(server, "/v1/fleet/pull-messages", context=context) in {400, 401, 403, 415}
    assert answer_at(server, "/v1/fleet/pull-messages") is None
