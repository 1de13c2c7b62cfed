"""Every site in Flower's own simulation engine, on Ray: for clusters.

Flower's engine draws the ids of its nodes and of the run, and hands a client app nothing but a
partition number. Both apps are wrapped here, so that they find the same ids, names and contexts as
with the other backends.
"""

import importlib.util
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from wardround_shared.errors import BackendError
from wardround_simulations.backends.answer import answer
from wardround_simulations.backends.flower import (
    SERVER_NODE_ID,
    SUPERLINK_NODE_ID,
    UNKNOWN_ERROR,
    acting_as_server,
    engine_nodes,
    process_ended,
    quiet_flower,
    readdressed,
)
from wardround_simulations.backends.grid import NodeGrid, drive, node_context

if TYPE_CHECKING:
    from wardround_simulations.backends import ClientFactory, Node

# Seconds between looks for replies; the engine itself looks for messages ten times a second.
_PULL_INTERVAL = 0.02
_REGISTRATION_TIMEOUT = 60.0  # seconds
_CONNECTION_TIMEOUT = 5.0  # seconds

# Set while the engine runs. The first three keep Flower and Ray from reporting their use; the
# last Flower sets itself, once, when its engine is first imported.
_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's coming default; it warns without
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}

# The client apps of this process, by run: Ray sends the wrapper anew with every message.
_client_apps: dict[str, ClientApp] = {}


class _NodeApp(ClientApp):
    """The client app as Ray's actors call it: finds out which node it is, then answers as it."""

    def __init__(
        self, factory: "ClientFactory", nodes: "Sequence[Node]", *, run_id: int, device: str
    ) -> None:
        super().__init__()
        self._factory = factory
        self._nodes = tuple(nodes)
        self._run_id = run_id
        self._device = device
        self._key = uuid.uuid4().hex

    def __call__(self, message: Message, context: Context) -> Message:
        node = self._nodes[int(context.node_config["partition-id"])]
        own = node_context(node, run_id=self._run_id, nodes=len(self._nodes))
        own.state = context.state
        instruction = readdressed(
            message,
            run_id=self._run_id,
            src_node_id=SERVER_NODE_ID,
            dst_node_id=node.node_id,
        )
        reply = answer(self._answer, instruction, own)
        context.state = own.state
        return readdressed(
            reply,
            run_id=message.metadata.run_id,
            src_node_id=message.metadata.dst_node_id,
            dst_node_id=message.metadata.src_node_id,
        )

    def _answer(self, message: Message, context: Context) -> Message:
        if self._key not in _client_apps:
            import torch  # noqa: PLC0415  (needed in the actors only)

            torch.set_num_threads(1)
            _client_apps[self._key] = self._factory(self._device)
        return _client_apps[self._key](message, context)


class _EngineGrid(NodeGrid):
    """The engine's grid as the server app sees it, with our ids of the run and its nodes."""

    def __init__(
        self, grid: Grid, nodes: "Sequence[Node]", *, run_id: int, stopped: threading.Event
    ) -> None:
        super().__init__(nodes, run_id=run_id)
        self._grid = grid
        self._stopped = stopped
        theirs = engine_nodes(grid, len(nodes), timeout=_REGISTRATION_TIMEOUT)
        self._theirs = dict(zip(self._node_ids, theirs, strict=True))
        self._names = {node.node_id: node.name for node in nodes}
        self._ours = dict(zip(theirs, self._node_ids, strict=True))

    def _push(self, message: Message) -> str:
        outward = readdressed(
            message,
            run_id=self._grid.run.run_id,
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=self._theirs[message.metadata.dst_node_id],
        )
        (message_id,) = self._grid.push_messages([outward])
        return message_id

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there; the engine's own error replies among them.

        Raises:
            BackendError: The engine has stopped.
        """
        if self._stopped.is_set():
            raise BackendError("Flower's simulation engine stopped while the run was going on.")
        replies = list(self._grid.pull_messages(message_ids))
        if not replies:
            time.sleep(_PULL_INTERVAL)
        return [self._inward(reply) for reply in replies]

    def _inward(self, reply: Message) -> Message:
        # An error reply may come from the SuperLink, which is none of our nodes.
        node_id = self._ours.get(reply.metadata.src_node_id, SERVER_NODE_ID)
        if reply.has_error() and reply.error.code == UNKNOWN_ERROR:
            # An actor's end; the engine gives a page of text, with paths and addresses in it.
            reply.error = process_ended(self._names.get(node_id), "its actor died")
        return readdressed(
            reply, run_id=self._run.run_id, src_node_id=node_id, dst_node_id=SERVER_NODE_ID
        )


def run_ray(
    server_app: ServerApp,
    client_factory: "ClientFactory",
    nodes: "Sequence[Node]",
    *,
    run_id: int,
    workers: int,
    device: str,
) -> None:
    """Run the server app in a thread that Flower's engine starts, client apps in Ray's actors.

    With ``RAY_ADDRESS`` set, the actors are those of that cluster, as many as it has room for;
    else `workers` on this machine.

    Raises:
        BackendError: Ray is not installed, nobody listens at RAY_ADDRESS, or the engine failed.
    """
    if importlib.util.find_spec("ray") is None:
        raise BackendError(
            "The ray backend needs Ray, which is not installed: run `pip install "
            "'wardround[ray]'`, or choose the process backend."
        )
    _refuse_a_cluster_that_is_not_there(os.environ.get("RAY_ADDRESS", ""))

    stopped, finished = threading.Event(), threading.Event()
    raised: list[BaseException] = []

    def main(grid: Grid, _: Context) -> None:
        # What is raised here has to pass the engine, which would wrap it and wait for seconds.
        try:
            drive(server_app, _EngineGrid(grid, nodes, run_id=run_id, stopped=stopped))
        except BaseException as error:  # noqa: BLE001
            raised.append(error)
        finally:
            finished.set()

    wrapper = ServerApp()
    wrapper.main()(main)
    with _environment(_ENVIRONMENT), acting_as_server(run_id), quiet_flower():
        from flwr.simulation import run_simulation  # noqa: PLC0415  (a second that others save)

        try:
            run_simulation(
                server_app=wrapper,
                client_app=_NodeApp(client_factory, nodes, run_id=run_id, device=device),
                num_supernodes=len(nodes),
                backend_config=_backend_config(workers, device),
            )
        except Exception as error:
            raise BackendError(
                f"Flower's simulation engine failed ({type(error.__cause__ or error).__name__}): "
                "see that Ray has a CPU, and with --device cuda a GPU, to spare."
            ) from error
        finally:
            # The engine leaves the server app's thread behind when it fails or is interrupted.
            stopped.set()
            finished.wait(_REGISTRATION_TIMEOUT)
    if raised:
        raise raised[0]


def _refuse_a_cluster_that_is_not_there(address: str) -> None:
    """Raise BackendError if nobody listens at "host:port"; Ray itself tries for four minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return  # "auto", "local" or nothing: Ray knows where to look
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECTION_TIMEOUT).close()
    except OSError as error:
        raise BackendError(
            f"There is no Ray cluster at RAY_ADDRESS={address}: start one there with `ray start "
            "--head`, or unset RAY_ADDRESS to run on this machine."
        ) from error


def _backend_config(workers: int, device: str) -> dict[str, dict[str, Any]]:
    """Return what Flower hands to ``ray.init`` and asks for each actor."""
    init: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    on_cluster = "RAY_ADDRESS" in os.environ
    if not on_cluster:
        init["num_cpus"] = workers
    gpus = 0.0
    if device == "cuda":
        import torch  # noqa: PLC0415

        gpus = 1.0 if on_cluster else min(1.0, torch.cuda.device_count() / workers)
    # Flower hands all of these to the actor; without restarts it would go on using dead ones.
    actor = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": -1}
    return {"init_args": init, "client_resources": actor}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables, and take back those and what Flower and Ray set besides."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
