"""`wardround bench deployment`: a round over a real network stack, beside stock Flower."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from wardround_client.approvals import Approvals
from wardround_client.data_sets import DataSets
from wardround_client.enrolment.home import SiteHome
from wardround_client.enrolment.joining import accept, write_request
from wardround_server.daemon.overview import overview
from wardround_server.daemon.runs import Runs
from wardround_server.enrolment.admission import admit, read_request
from wardround_server.enrolment.home import ServerHome
from wardround_server.enrolment.settings import settings_text
from wardround_server.run_folder import ROUNDS
from wardround_shared.errors import BackendError
from wardround_shared.study import Study, parse_study, study_text
from wardround_shared.supervision import free_port
from wardround_shared.times import utc_now
from wardround_simulations.benchmarks.stock_flower import stock_rounds

SITES = ("north", "south", "west")
ROUNDS_MEASURED = 10
PARAMETERS = 100_442
"""Of the model below."""

_PATIENCE_SECONDS = 300.0
_IDLE_SECONDS = 10.0

_STUDY = """
[study]
name = "deployment"
task = "tabular-classification"
classes = ["absent", "present"]

[data]
source = "table"
table = ["*.csv"]
label = {{ column = "finding" }}
patient = "patient"
features = [{features}]

[preprocessing]
steps = []

[model]
name = "mlp"
hidden = [310, 310]

[training]
rounds = {rounds}
batch-size = 64
learning-rate = 0.0001

[privacy]
mechanism = "none"

[aggregation]
secure = {secure}
minimum-sites = 3
deadline = 120.0
"""


def bench_deployment(*, rounds: int = ROUNDS_MEASURED) -> dict[str, Any]:
    """Seconds per round of three sites without training to speak of, on loopback with TLS.

    Ours: from the end of the first round to the end of the last, with the metrics of each round's
    model. Stock Flower, in the same run: train and evaluate, subprocess isolation, no TLS. A site's
    idle memory (MB) and share of a core are those of its three processes before the first study.
    """
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as name:
        folder = Path(name)
        with _consortium(folder) as (server, sites, processes):
            _connected(server)
            idle_mb, idle_core = _idle(processes[1])
            plain = _seconds_per_round(server, sites, rounds, secure=False)
            secure = _seconds_per_round(server, sites, rounds, secure=True)
        ended = stock_rounds(folder, sites=len(SITES), rounds=rounds, parameters=PARAMETERS)
    stock = (ended[-1] - ended[0]) / (len(ended) - 1)
    return {
        "stock_s": stock,
        "plain_s": plain,
        "secure_s": secure,
        "plain_over_stock": plain / stock,
        "secure_over_stock": secure / stock,
        "site_idle_mb": idle_mb,
        "site_idle_core": idle_core,
        "sites": len(SITES),
        "rounds": rounds,
        "parameters": PARAMETERS,
    }


@contextmanager
def _consortium(
    folder: Path,
) -> Iterator[tuple[ServerHome, list[SiteHome], list[subprocess.Popen[bytes]]]]:
    """A server and sites that have joined, with their daemons; server first."""
    server = ServerHome.init(
        folder / "server",
        settings=settings_text(
            address=f"localhost:{free_port()}",
            listen_host="127.0.0.1",
            health_port=free_port(),
            metrics_port=free_port(),
        ),
        now=utc_now(),
    )
    sites = [_enrolled(folder, server, name) for name in SITES]
    with ExitStack() as stack:
        processes = [stack.enter_context(_daemon("wardround-server", server.folder))]
        processes += [stack.enter_context(_daemon("wardround-site", s.folder)) for s in sites]
        yield server, sites, processes


def _enrolled(folder: Path, server: ServerHome, name: str) -> SiteHome:
    home = SiteHome.init(folder / name, name)
    request, answer = folder / f"{name}.request", folder / f"{name}.answer"
    write_request(home, request, now=utc_now())
    candidate = read_request(server, request)
    admitted = admit(server, candidate, answer=answer, now=utc_now())
    accept(home, answer, fingerprint=admitted.fingerprint, now=utc_now())
    data = folder / f"{name}-data"
    data.mkdir()
    header = ",".join(["patient", *(f"x{k}" for k in range(10)), "finding"])
    rows = [
        ",".join([f"{name}-{row}", *(str((row * k) % 7) for k in range(10)), finding])
        for row in range(10)
        for finding in (("absent", "present")[row % 2],)
    ]
    (data / "table.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    DataSets(home.data_sets).add("bench", data, "table")
    # Without noise, and once without masks: nobody's data are in this.
    policy = home.policy.read_text(encoding="utf-8")
    policy = policy.replace("allow-without-privacy = false", "allow-without-privacy = true")
    policy = policy.replace(
        "require-secure-aggregation = true", "require-secure-aggregation = false"
    )
    home.policy.write_text(policy, encoding="utf-8")
    return home


@contextmanager
def _daemon(command: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(  # noqa: S603 - our own command
        [str(Path(sys.executable).parent / command), "start", "--home", str(home)],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def _seconds_per_round(
    server: ServerHome, sites: list[SiteHome], rounds: int, *, secure: bool
) -> float:
    study = _study(rounds, secure=secure)
    for site in sites:
        approvals = Approvals(site.studies)
        approvals.keep(study_text(study))
        approvals.approve(study.study_id, data_set="bench")
    runs = Runs(server.runs)
    record = runs.submit(study, name=None, seed=0, now=utc_now(), sites=SITES)
    lines = runs.folder / record.name / ROUNDS
    ended: list[float] = []
    end = time.monotonic() + _PATIENCE_SECONDS
    while len(ended) < rounds:
        if time.monotonic() > end:
            raise BackendError(f"The run has not finished: {runs.status(record.name)}")
        if _lines(lines) > len(ended):
            ended.append(time.monotonic())
        time.sleep(0.005)
    while runs.read(record.name).active:
        time.sleep(0.05)
    return (ended[-1] - ended[0]) / (rounds - 1)


def _study(rounds: int, *, secure: bool) -> Study:
    features = ", ".join(f'{{ column = "x{k}" }}' for k in range(10))
    text = _STUDY.format(features=features, rounds=rounds, secure="true" if secure else "false")
    return parse_study(text, origin="the study of this benchmark")


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _connected(server: ServerHome) -> None:
    """Wait for all sites: a node that comes before its key is registered is started again."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while not all(one["online"] for one in overview(server)["sites"]):
        if time.monotonic() > end:
            raise BackendError("The sites have not connected to their server.")
        time.sleep(0.5)


def _idle(site: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Memory in MB and share of a core of a site's processes, once they have settled."""
    time.sleep(_IDLE_SECONDS)
    before, began = _ticks(site.pid), time.monotonic()
    time.sleep(_IDLE_SECONDS)
    busy = (_ticks(site.pid) - before) / os.sysconf("SC_CLK_TCK")
    resident = sum(_resident_kb(pid) for pid in _family(site.pid)) / 1000
    return resident, busy / (time.monotonic() - began)


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *(descendant for child in children for descendant in _family(int(child)))]


def _ticks(pid: int) -> int:
    """User and system time of a process and its children, fields 14 and 15 of proc(5)'s stat."""
    total = 0
    for one in _family(pid):
        fields = Path(f"/proc/{one}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total


def _resident_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
