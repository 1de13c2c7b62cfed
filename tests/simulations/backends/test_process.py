"""Workers die, fail to start, answer out of order and are interrupted."""

import contextlib
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import toy_federation
from flwr.app import Array, Context
from flwr.serverapp import Grid, ServerApp
from toy_federation import (
    Training,
    broken_factory,
    dying_factory,
    failing_app,
    messages,
    nodes,
    server,
    sleeping_app,
    training_app,
    values,
)

from wardround_shared.errors import BackendError
from wardround_simulations.backends import ProcessPool, launch, run
from wardround_simulations.backends import segments as segments_module

SHARED_MEMORY = Path("/dev/shm")


def start(app: ServerApp, factory=training_app, *, count: int = 3, pool: ProcessPool | None = None):
    run(
        "process",
        server_app=app,
        client_factory=factory,
        nodes=nodes(count),
        run_id=7,
        workers=2,
        device="cpu",
        pool=pool,
    )


def segments(prefix: str) -> list[str]:
    if not SHARED_MEMORY.is_dir():
        pytest.skip("shared memory cannot be listed on this system")
    return [path.name for path in SHARED_MEMORY.glob(f"{prefix}*")]


def test_replies_come_as_they_are_ready() -> None:
    order: list[int] = []

    def main(grid: Grid, context: Context) -> None:
        waiting = set(grid.push_messages(messages(grid, action="query")))
        while waiting:
            for reply in grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                order.append(reply.metadata.src_node_id)

    start(server(main))
    assert order == [2, 3, 1], "the first site is slow"


def test_a_killed_worker_costs_one_reply_and_nothing_else() -> None:
    rounds: list[dict[int, str | None]] = []

    def main(grid: Grid, context: Context) -> None:
        for _ in range(2):
            replies = grid.send_and_receive(messages(grid, action="evaluate"))
            rounds.append(
                {
                    reply.metadata.src_node_id: reply.error.reason if reply.has_error() else None
                    for reply in replies
                }
            )

    with ProcessPool(workers=2) as pool:
        start(server(main), failing_app, count=6, pool=pool)
        assert segments(pool.segment_prefix) == []
    for answers in rounds:
        assert answers[3] == "the worker process of site site-003 ended unexpectedly (signal 9)"
        assert [answers[node] for node in (4, 5, 6)] == [None, None, None]


def test_segments_of_a_killed_worker_are_unlinked() -> None:
    def main(grid: Grid, context: Context) -> None:
        grid.send_and_receive(messages(grid, model=Array(np.zeros(100_000))))
        assert segments(pool.segment_prefix), "models travel in shared memory"
        grid.send_and_receive(messages(grid, action="evaluate", model=Array(np.zeros(100_000))))

    with ProcessPool(workers=2) as pool:
        start(server(main), failing_app, pool=pool)
        assert segments(pool.segment_prefix) == []


def test_a_round_s_model_lies_in_shared_memory_once() -> None:
    found: list[int] = []

    def main(grid: Grid, context: Context) -> None:
        model = Array(np.zeros(100_000))
        waiting = set(grid.push_messages(messages(grid, model=model)))
        while waiting:
            replies = list(grid.pull_messages(waiting))
            waiting.difference_update(reply.metadata.reply_to_message_id for reply in replies)
            found.append(len(segments(pool.segment_prefix)))

    with ProcessPool(workers=2) as pool:
        start(server(main), count=12, pool=pool)
    assert max(found) <= 5, "the model, and two for each worker's replies"


def test_a_node_goes_back_to_the_worker_that_has_its_data_open() -> None:
    served: list[dict[int, float]] = []

    def main(grid: Grid, context: Context) -> None:
        for number in range(3):
            sent = messages(grid, model=Array(np.zeros(1_000_000, np.float32)))
            random.Random(number).shuffle(sent)
            served.append(values(grid.send_and_receive(sent), "pid"))

    start(server(main), count=40)
    moves = Counter((served[1][node], served[2][node]) for node in served[1])
    both_ways = [number for (before, now), number in moves.items() if before != now]
    # Whoever is done with its own helps the other, however slow that is, and not the other
    # way about; only the first messages find an idle worker before the rest are there.
    assert len(both_ways) < 2 or min(both_ways) <= 3, "by chance it were ten each way"


def test_orders_that_no_pipe_would_take_wait_for_an_idle_worker(monkeypatch) -> None:
    monkeypatch.setattr(segments_module, "_room_for", lambda size: False)
    app = Training(2, parameters=1_000_000)
    start(app, count=12)
    assert app.trained[-1] == dict.fromkeys(range(1, 13), 2)


def test_workers_that_end_while_they_start_end_the_run() -> None:
    with pytest.raises(BackendError, match=r"3 times in a row .* \(exit code 3\)"):
        start(Training(1), dying_factory)


def test_a_factory_that_fails_ends_the_run_without_saying_what_it_saw() -> None:
    with pytest.raises(BackendError, match="KeyError") as raised:
        start(Training(1), broken_factory)
    assert "4711" not in str(raised.value)


def test_workers_log_into_the_log_of_the_parent(caplog) -> None:
    def main(grid: Grid, context: Context) -> None:
        grid.send_and_receive(messages(grid, action="query"))

    with caplog.at_level(logging.WARNING):
        start(server(main))
    said = {record.getMessage() for record in caplog.records if record.name == "toy"}
    assert said == {"asked at site-001", "asked at site-002", "asked at site-003"}


def test_levels_set_here_hold_in_workers(caplog) -> None:
    def main(grid: Grid, context: Context) -> None:
        grid.send_and_receive(messages(grid, action="query"))

    with caplog.at_level(logging.ERROR, logger="toy"):
        start(server(main))
    assert not [record for record in caplog.records if record.name == "toy"]


def test_two_hundred_nodes_share_two_workers(capsys) -> None:
    app = Training(2, parameters=100_000)
    with ProcessPool(workers=2) as pool:
        start(app, count=200, pool=pool)
        assert segments(pool.segment_prefix) == []
    assert app.trained[-1] == dict.fromkeys(range(1, 201), 2)
    with capsys.disabled():
        print(f"\n200 nodes, 100,000 parameters: {app.seconds[-1] / 200 * 1e3:.2f} ms a message")  # noqa: T201


def test_both_workers_work() -> None:
    workers: set[float] = set()

    def main(grid: Grid, context: Context) -> None:
        sent = messages(grid, model=Array(np.zeros(1_000_000, np.float32)))
        workers.update(values(grid.send_and_receive(sent), "pid").values())

    start(server(main), count=20)
    assert len(workers) == 2
    assert os.getpid() not in workers


def test_an_early_pool_has_no_process_left_after_its_run() -> None:
    pids: set[int] = set()

    def main(grid: Grid, context: Context) -> None:
        for reply in grid.send_and_receive(messages(grid, action="query")):
            pids.add(reply.content["facts"]["pid"])

    begin = time.perf_counter()
    pool = ProcessPool(workers=2).start()
    assert time.perf_counter() - begin < 0.5, "starting does not wait for the workers"
    start(server(main), pool=pool)
    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_pool_that_was_never_used_ends() -> None:
    with ProcessPool(workers=1).start():
        pass
    with ProcessPool(workers=1):
        pass


def test_a_run_that_fails_ends_workers_in_the_middle_of_their_messages() -> None:
    def main(grid: Grid, context: Context) -> None:
        grid.push_messages(messages(grid, model=Array(np.zeros(100_000))))
        time.sleep(1)
        raise LookupError("no such study")

    begin = time.perf_counter()
    with ProcessPool(workers=2) as pool:
        with pytest.raises(LookupError):
            start(server(main), sleeping_app, pool=pool)
        assert segments(pool.segment_prefix) == []
    assert time.perf_counter() - begin < 30, "a message takes a minute"


def test_workers_are_spread_over_the_gpus(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    devices = [launch._device_of(number, "cuda") for number in range(3)]
    assert devices == ["cuda:0", "cuda:1", "cuda:0"]
    assert launch._device_of(1, "cpu") == "cpu"


# The command that is interrupted: says its pool's prefix, and when both workers are busy.
INTERRUPTED = """
import sys, time
from wardround_simulations.backends import ProcessPool, run
pool = ProcessPool(workers=2).start()
print(pool.segment_prefix, flush=True)
import numpy as np
from flwr.app import Array
from toy_federation import messages, nodes, server, sleeping_app

def main(grid, context):
    ids = grid.push_messages(messages(grid, model=Array(np.zeros(100_000))))
    while not grid.pull_messages(ids):
        print("waiting", flush=True)

run("process", server_app=server(main), client_factory=sleeping_app, nodes=nodes(4), run_id=1,
    workers=2, device="cpu", pool=pool)
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_is_ended(ending: signal.Signals) -> None:
    folders = [str(Path(toy_federation.__file__).parent), *sys.path]
    command = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        start_new_session=True,
    )
    assert command.stdout is not None
    assert command.stderr is not None
    prefix = command.stdout.readline().strip()
    _wait_until(lambda: segments(prefix) != [])
    assert command.stdout.readline() == "waiting\n"
    assert len(_session(command.pid)) >= 5, "with a tracker, a fork server and two workers"
    if ending == signal.SIGINT:
        os.killpg(command.pid, ending)  # as a terminal does: everybody gets it
    else:
        command.kill()
    said = command.stderr.read()
    command.wait(30)
    _wait_until(lambda: not _session(command.pid))
    _wait_until(lambda: segments(prefix) == [])
    command.stdout.close()
    command.stderr.close()
    if ending == signal.SIGINT:
        # The workers say nothing, and the command itself at most this.
        assert said.count("Traceback") == said.count("\nKeyboardInterrupt") <= 1
        assert "leaked" not in said


def _session(leader: int) -> list[int]:
    """Processes of the session that `leader` began; field 6 of /proc/PID/stat, proc(5)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def _wait_until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_module_that_starts_a_run_is_not_imported_by_workers(tmp_path) -> None:
    script = tmp_path / "command.py"
    script.write_text(
        "print('imported', flush=True)\n"
        "from wardround_simulations.backends import ProcessPool, run\n"
        "from toy_federation import Training, nodes, training_app\n"
        "if __name__ == '__main__':\n"
        "    run('process', server_app=Training(1), client_factory=training_app,\n"
        "        nodes=nodes(2), run_id=1, workers=2, device='cpu')\n"
        "    print(__file__)\n"
    )
    folders = [str(Path(toy_federation.__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
    )
    assert done.stdout.split() == ["imported", str(script)]
    assert done.stderr == ""


def test_a_pool_is_imported_without_flower_or_torch() -> None:
    code = (
        "import sys, wardround_simulations.backends\n"
        "print({'flwr', 'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == "set()\n"


def test_nodes_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(nodes(2))) == nodes(2)
