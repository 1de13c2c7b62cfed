"""The metrics as Prometheus reads them."""

import dataclasses
import http.client
import math
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_server.daemon.metrics import RunFigures, ServerState, exposition, serve_metrics
from wardround_shared import __version__
from wardround_shared.errors import EnrolmentError


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


_NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (\S+)")


def parsed(text):
    """The samples of an exposition: (name, labels) -> value; strict about format 0.0.4.

    A family has one HELP and one TYPE line, in this order, before all of its samples, which stand
    together; counters end in `_total`; no sample comes twice.
    """
    assert text.endswith("\n")
    samples, seen, kind, name = {}, set(), None, None
    lines = iter(text.removesuffix("\n").split("\n"))
    for line in lines:
        if line.startswith("# HELP "):
            name, explanation = re.fullmatch(rf"# HELP ({_NAME}) (\S.*)", line).groups()
            assert "\\" not in explanation
            assert name not in seen
            seen.add(name)
            (kind,) = re.fullmatch(rf"# TYPE {name} (gauge|counter)", next(lines)).groups()
            assert name.endswith("_total") == (kind == "counter")
            continue
        found = _SAMPLE.fullmatch(line)
        assert found, line
        assert found[1] == name
        labels = {key: _unescaped(label) for key, label in re.findall(_LABEL, found[2] or "")}
        key = (name, frozenset(labels.items()))
        assert key not in samples
        samples[key] = float(found.groups()[-1])
    return samples


def _unescaped(label):
    return re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), label)


RUN = RunFigures(
    name="heart-1",
    state="running",
    round=3,
    rounds=20,
    waiting_for=2,
    since_round=12.5,
)
STATE = ServerState(
    serving=True,
    sites_registered=4,
    sites_online=3,
    runs=(
        RUN,
        RunFigures(name="heart-0", state="finished", round=20, rounds=20),
        RunFigures(name="chest-0", state="submitted", rounds=5),
    ),
    certificate_seconds=86400.0,
    authority_seconds=-1.0,
    superlink_restarts=1,
    runner_restarts=2,
)


def value(samples, name, **labels):
    return samples[(f"wardround_{name}", frozenset(labels.items()))]


def test_every_figure_is_there():
    samples = parsed(exposition(STATE))
    assert value(samples, "build_info", version=__version__) == 1
    assert value(samples, "serving") == 1
    assert value(samples, "sites_registered") == 4
    assert value(samples, "sites_online") == 3
    assert value(samples, "certificate_expires_in_seconds", certificate="server") == 86400
    assert value(samples, "certificate_expires_in_seconds", certificate="authority") == -1
    assert value(samples, "superlink_restarts_total") == 1
    assert value(samples, "runner_restarts_total") == 2
    assert value(samples, "run_round", run="heart-1") == 3
    assert value(samples, "run_rounds", run="heart-1") == 20
    assert value(samples, "run_sites_waiting_for", run="heart-1") == 2
    assert value(samples, "run_seconds_since_round", run="heart-1") == 12.5


def test_runs_are_counted_by_state_also_where_there_are_none():
    samples = parsed(exposition(STATE))
    counted = {
        state: value(samples, "runs", state=state)
        for state in ("submitted", "running", "stopped", "finished", "failed")
    }
    assert counted == {"submitted": 1, "running": 1, "stopped": 0, "finished": 1, "failed": 0}


def test_runs_that_have_ended_have_no_figures_of_their_own():
    named = {dict(labels).get("run") for _, labels in parsed(exposition(STATE))}
    assert named == {None, "heart-1", "chest-0"}


@pytest.mark.parametrize("figure", ["seconds_since_round"])
def test_a_figure_that_is_not_known_is_left_out_and_not_zero(figure):
    samples = parsed(exposition(STATE))
    told = [dict(labels) for name, labels in samples if name == f"wardround_run_{figure}"]
    assert told == [{"run": "heart-1"}]


@given(st.text(max_size=30))
def test_any_name_survives_in_a_label(name):
    run = dataclasses.replace(RUN, name=name)
    samples = parsed(exposition(dataclasses.replace(STATE, runs=(run,))))
    assert value(samples, "run_round", run=name) == 3


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_number_is_one_that_prometheus_reads(seconds):
    text = exposition(dataclasses.replace(STATE, certificate_seconds=seconds))
    read = value(parsed(text), "certificate_expires_in_seconds", certificate="server")
    assert read == seconds or (math.isnan(read) and math.isnan(seconds))


class Daemon:
    def __init__(self, port):
        self.port, self.up, self.broken = port, True, False
        self.server = serve_metrics("127.0.0.1", port, self.text, serving=lambda: self.up)

    def text(self):
        if self.broken:
            raise ZeroDivisionError("division")
        return exposition(STATE)

    def ask(self, method, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture
def daemon():
    made = Daemon(free_port())
    yield made
    made.server.close()


def test_prometheus_gets_the_text_with_its_version(daemon):
    status, headers, text = daemon.ask("GET", "/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert parsed(text) == parsed(exposition(STATE))


def test_healthz_says_whether_sites_can_connect(daemon):
    assert daemon.ask("GET", "/healthz")[::2] == (200, "serving\n")
    daemon.up = False
    assert daemon.ask("GET", "/healthz")[::2] == (503, "not serving\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics/../healthz", "/runs"])
def test_no_other_page_is_there(daemon, path):
    assert daemon.ask("GET", path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"])
def test_nothing_but_get_is_answered(daemon, method):
    assert daemon.ask(method, "/metrics")[0] == 501


def test_an_error_while_forming_them_is_no_page_of_metrics(daemon):
    daemon.broken = True
    status, _, text = daemon.ask("GET", "/metrics")
    assert (status, "wardround_" in text, "division" in text) == (500, False, False)
    assert daemon.ask("GET", "/healthz")[0] == 200


def test_no_software_version_is_told_in_headers(daemon):
    assert daemon.ask("GET", "/metrics")[1]["Server"].strip() == "wardround"


def test_a_reader_that_says_nothing_keeps_nobody_waiting(daemon):
    with socket.create_connection(("127.0.0.1", daemon.port)):
        assert daemon.ask("GET", "/metrics")[0] == 200


def test_a_port_that_is_taken_is_refused_in_words(daemon):
    with pytest.raises(EnrolmentError, match=rf"port {daemon.port}.*\[metrics\]"):
        Daemon(daemon.port)


def test_the_port_is_free_once_it_is_closed():
    port = free_port()
    Daemon(port).server.close()
    again = Daemon(port)
    assert again.ask("GET", "/metrics")[0] == 200
    again.server.close()
