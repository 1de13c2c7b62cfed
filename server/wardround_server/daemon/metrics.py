"""What Prometheus reads of the server: text format 0.0.4 over plain HTTP.

Counts and ages, nothing of a model: no metric of a study, and of a site no more than that it is
counted. Names of runs stand in labels.
"""

import logging
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from typing import Any, ClassVar, get_args

from wardround_server.daemon.runs import State
from wardround_shared import __version__
from wardround_shared.errors import EnrolmentError

_log = logging.getLogger(__name__)

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """What is told of one run.

    Attributes:
        name: of the run.
        state: where it stands.
        round: the round that is under way; 0 before the first.
        rounds: of the study.
        waiting_for: sites whose answers to the round are still to come, or without whom it cannot
            go on.
        since_round: seconds since a round was closed, or since the run began; None if it has not.
    """

    name: str
    state: State
    round: int = 0
    rounds: int = 0
    waiting_for: int = 0
    since_round: float | None = None

    @property
    def active(self) -> bool:
        """Whether somebody works on it, or should."""
        return self.state in {"submitted", "running"}


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """What is told of a server.

    Attributes:
        serving: whether sites can connect.
        sites_registered: in the roster.
        sites_online: of these, connected now.
        runs: all of them; figures are given for those that are active.
        certificate_seconds: until the server's certificate ends; negative afterwards.
        authority_seconds: until its authority's ends.
        superlink_restarts, runner_restarts: since the daemon was started.
    """

    serving: bool
    sites_registered: int
    sites_online: int
    runs: tuple[RunFigures, ...] = field(default=())
    certificate_seconds: float
    authority_seconds: float
    superlink_restarts: int
    runner_restarts: int


Sample = tuple[Mapping[str, str], float]


def exposition(state: ServerState) -> str:
    """The whole text, as Prometheus reads it."""
    return "".join(
        line
        for name, kind, explanation, samples in (*_of_server(state), *_of_runs(state))
        for line in _family(name, kind, explanation, samples)
    )


_Family = tuple[str, str, str, list[Sample]]


def _of_server(state: ServerState) -> Iterator[_Family]:
    yield "build_info", "gauge", "Version of the software.", [({"version": __version__}, 1)]
    yield "serving", "gauge", "1 if sites can connect.", [({}, state.serving)]
    yield "sites_registered", "gauge", "Sites in the roster.", [({}, state.sites_registered)]
    yield "sites_online", "gauge", "Sites that are connected.", [({}, state.sites_online)]
    counted = Counter(run.state for run in state.runs)
    by_state: list[Sample] = [({"state": name}, counted[name]) for name in get_args(State)]
    yield "runs", "gauge", "Runs by state.", by_state
    ends: list[Sample] = [
        ({"certificate": "server"}, state.certificate_seconds),
        ({"certificate": "authority"}, state.authority_seconds),
    ]
    yield "certificate_expires_in_seconds", "gauge", "Seconds until a certificate ends.", ends
    superlink, runners = state.superlink_restarts, state.runner_restarts
    yield "superlink_restarts_total", "counter", "The SuperLink had ended.", [({}, superlink)]
    yield "runner_restarts_total", "counter", "The runner of a run had ended.", [({}, runners)]


def _of_runs(state: ServerState) -> Iterator[_Family]:
    active = [run for run in state.runs if run.active]

    def of_each(figure: Callable[[RunFigures], float | None]) -> list[Sample]:
        figures = ((run.name, figure(run)) for run in active)
        return [({"run": name}, value) for name, value in figures if value is not None]

    yield "run_round", "gauge", "Round under way.", of_each(lambda run: run.round)
    yield "run_rounds", "gauge", "Rounds of the study.", of_each(lambda run: run.rounds)
    waiting = of_each(lambda run: run.waiting_for)
    yield "run_sites_waiting_for", "gauge", "Sites that a run waits for.", waiting
    since = of_each(lambda run: run.since_round)
    yield "run_seconds_since_round", "gauge", "Seconds since the last round was closed.", since


def _family(name: str, kind: str, explanation: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP wardround_{name} {explanation}\n# TYPE wardround_{name} {kind}\n"
    for labels, value in samples:
        text = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        yield f"wardround_{name}{'{' + text + '}' if text else ''} {float(value)!r}\n"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class MetricsServer:
    """Answers GET /metrics and /healthz on threads of its own, until it is closed."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, daemon=True, name="metrics")
        self._thread.start()

    def close(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(
    host: str, port: int, text: Callable[[], str], *, serving: Callable[[], bool]
) -> MetricsServer:
    """Serve what `text` gives, and on /healthz whether the daemon is `serving` (200 or 503).

    Args:
        host: address of this machine; the loopback's for this machine alone.
        port: of the plain connection.
        text: `exposition` of the state, formed anew for each request.
        serving: whether sites can connect.

    Raises:
        EnrolmentError: the port cannot be opened.
    """

    class Handler(_Handler):
        pages = {  # noqa: RUF012 - declared in the parent
            "/metrics": lambda: (HTTPStatus.OK, text()),
            "/healthz": lambda: (
                (HTTPStatus.OK, "serving\n")
                if serving()
                else (HTTPStatus.SERVICE_UNAVAILABLE, "not serving\n")
            ),
        }

    try:
        return MetricsServer(_server_class(host)((host, port), Handler))
    except OSError as error:
        raise EnrolmentError(
            f"{host}, port {port}: this address for Prometheus cannot be opened "
            f"({error.strerror}); end what listens there, or name another under [metrics] in "
            "server.toml."
        ) from error


def _server_class(host: str) -> type[ThreadingHTTPServer]:
    class Server(ThreadingHTTPServer):
        address_family = AF_INET6 if ":" in host else AF_INET

        def server_bind(self) -> None:
            # HTTPServer would ask the DNS for a name that nobody needs.
            socketserver.TCPServer.server_bind(self)

        def handle_error(self, request: Any, client_address: Any) -> None:
            _log.debug("a reader of the metrics has left", exc_info=True)

    return Server


class _Handler(BaseHTTPRequestHandler):
    """GET of the pages, and nothing else."""

    pages: ClassVar[Mapping[str, Callable[[], tuple[HTTPStatus, str]]]]
    timeout = _PATIENCE_SECONDS
    server_version, sys_version = "wardround", ""

    def do_GET(self) -> None:
        page = self.pages.get(self.path.partition("?")[0])
        if page is None:
            self._answer(HTTPStatus.NOT_FOUND, "There are /metrics and /healthz.\n")
            return
        try:
            status, text = page()
        except Exception:  # noqa: BLE001 - a reader is told in any case
            _log.exception("the metrics cannot be formed")
            status, text = HTTPStatus.INTERNAL_SERVER_ERROR, "The daemon's log says why.\n"
        self._answer(status, text)

    def _answer(self, status: HTTPStatus, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", _CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        _log.debug(format, *args)
