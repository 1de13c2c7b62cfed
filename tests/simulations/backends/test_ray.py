"""Flower's own engine gives what the other backends give."""

import importlib.util
import os
import socket
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from toy_federation import PARAMETERS, Training, failing_app, messages, nodes, server

from wardround_shared.errors import BackendError
from wardround_simulations.backends import run
from wardround_simulations.backends.ray import _environment

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install '.[ray]'"
)
# Ray leaves pipes and log files of its subprocesses to the garbage collector.
leaves_files_open = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


class Everything(ServerApp):
    """In one run, since an engine takes seconds to start: trains, asks, fails, and raises."""

    def __init__(self, rounds: int, *, kills: bool = False) -> None:
        super().__init__()
        self.kills = kills
        self.training = Training(rounds)
        self.facts: dict[int, ConfigRecord] = {}
        self.errors: dict[int, str | None] = {}
        self.main()(self._all)

    def _all(self, grid: Grid, context: Context) -> None:
        assert (context.run_id, grid.run.run_id) == (7, 7)
        assert list(grid.get_node_ids()) == [1, 2, 3]
        self.training(grid, context)
        for reply in grid.send_and_receive(messages(grid, action="query")):
            self.facts[reply.metadata.src_node_id] = reply.content["facts"]
        for reply in grid.send_and_receive(messages(grid, action="evaluate")[:2]):
            self.errors[reply.metadata.src_node_id] = reply.error.reason
        if self.kills:
            (reply,) = grid.send_and_receive(messages(grid, action="evaluate")[2:])
            assert reply.error.reason == (
                "the worker process of site site-003 ended unexpectedly (its actor died)"
            )
            end = time.monotonic() + 30
            while any(r.has_error() for r in grid.send_and_receive(messages(grid, action="query"))):
                assert time.monotonic() < end, "the actor is started again"
        raise LookupError("no such study")


def start(backend, app: ServerApp) -> None:
    run(
        backend,
        server_app=app,
        client_factory=failing_app,
        nodes=nodes(3),
        run_id=7,
        workers=2,
        device="cpu",
    )


@pytest.fixture
def short_folder() -> Iterator[str]:
    """Folder for Ray's sessions; under tmp_path the names of its sockets would be too long."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield folder


@needs_ray
@leaves_files_open
def test_ray_agrees_with_inline_in_everything(tmp_path, short_folder, monkeypatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    monkeypatch.setenv("RAY_TMPDIR", short_folder)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = dict(os.environ)
    inline, ray = Everything(2), Everything(2, kills=True)
    for backend, app in (("inline", inline), ("ray", ray)):
        with pytest.raises(LookupError, match="no such study"):
            start(backend, app)
    assert ray.training.model.shape == (PARAMETERS,)
    np.testing.assert_array_equal(inline.training.model, ray.training.model)
    assert inline.training.trained == ray.training.trained
    assert inline.errors == ray.errors
    for node_id, fact in inline.facts.items():
        same = set(fact) - {"pid"}
        assert {key: fact[key] for key in same} == {key: ray.facts[node_id][key] for key in same}
        assert ray.facts[node_id]["pid"] != os.getpid()
    assert dict(os.environ) == before


def test_without_ray_one_sentence_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"pip install 'wardround\[ray\]'"):
        start("ray", server(lambda grid, context: None))


@needs_ray
def test_a_cluster_that_is_not_there_is_refused_at_once(monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server_socket:
        address = f"127.0.0.1:{server_socket.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(BackendError, match=f"no Ray cluster at RAY_ADDRESS={address}"):
        start("ray", server(lambda grid, context: None))


def test_the_environment_is_given_back(monkeypatch) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with _environment({"FLWR_TELEMETRY_ENABLED": "0", "WARDROUND_TEST": "1"}):
        os.environ["PYTHONPATH"] = "elsewhere"
        assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "1"
    assert not {"PYTHONPATH", "WARDROUND_TEST"} & set(os.environ)
