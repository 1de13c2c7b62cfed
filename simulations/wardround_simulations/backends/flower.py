"""Flower's internals, touched here and nowhere else in this package; tested with flwr 1.41 only."""

import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from wardround_shared.errors import BackendError


def refuse_untested(installed: str) -> None:
    """Raise BackendError unless `installed` is a version of flwr that this file was tested with."""
    if not installed.startswith("1.41."):
        raise BackendError(
            f"Simulations were tested with flwr 1.41, and {installed} is installed: "
            "run `pip install 'flwr==1.41.0'`."
        )


# Before the imports below, which are what another version may have moved.
refuse_untested(version("flwr"))

from flwr.app import DEFAULT_TTL, Error, Message, Metadata, RecordDict  # noqa: E402
from flwr.app.message import make_message  # noqa: E402
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode  # noqa: E402
from flwr.serverapp import Grid  # noqa: E402
from flwr.supercore import telemetry  # noqa: E402
from flwr.supercore.run import Run  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

__all__ = [
    "SERVER_NODE_ID",
    "SUPERLINK_NODE_ID",
    "UNKNOWN_ERROR",
    "Run",
    "acting_as_server",
    "app_raised",
    "empty_run",
    "engine_nodes",
    "new_message",
    "process_ended",
    "quiet_flower",
    "readdressed",
]

# Virtual sites count from 1, which is the id of Flower's own SuperLink; here the server is 0.
SERVER_NODE_ID = 0
UNKNOWN_ERROR: int = ErrorCode.UNKNOWN

# Read from the environment when flwr was first imported, which may have been before us.
telemetry.FLWR_TELEMETRY_ENABLED = "0"


def empty_run(run_id: int) -> Run:
    """Return what ``Grid.run`` tells a server app: the id, and nothing else."""
    return Run.create_empty(run_id)


def new_message(
    content: RecordDict,
    *,
    run_id: int,
    message_type: str,
    dst_node_id: int,
    group_id: str,
    ttl: float | None,
) -> Message:
    """Return an instruction from the server to a node; the grid numbers it when it is pushed."""
    metadata = Metadata(
        run_id=run_id,
        message_id="",
        src_node_id=SERVER_NODE_ID,
        dst_node_id=dst_node_id,
        reply_to_message_id="",
        group_id=group_id,
        created_at=time.time(),
        ttl=DEFAULT_TTL if ttl is None else ttl,
        message_type=message_type,
    )
    return make_message(metadata, content=content)


def readdressed(message: Message, **changes: Any) -> Message:
    """Return `message` with the named fields of its metadata changed.

    Its records are new dictionaries, so that the receiver may change them; the arrays, whose
    bytes nobody can change, are the same objects.
    """
    old = message.metadata
    fields: dict[str, Any] = {
        "run_id": old.run_id,
        "message_id": old.message_id,
        "src_node_id": old.src_node_id,
        "dst_node_id": old.dst_node_id,
        "reply_to_message_id": old.reply_to_message_id,
        "group_id": old.group_id,
        "created_at": old.created_at,
        "ttl": old.ttl,
        "message_type": old.message_type,
        "src_task_id": old.src_task_id,
        "dst_task_id": old.dst_task_id,
    }
    metadata = Metadata(**(fields | changes))
    if message.has_error():
        return make_message(metadata, error=message.error)
    return make_message(
        metadata, content=RecordDict({key: rec.copy() for key, rec in message.content.items()})
    )


def app_raised(reason: str) -> Error:
    """Return what tells the server that a client app raised."""
    return Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason)


def process_ended(site: object, cause: str) -> Error:
    """Return what tells the server that the process in which a client app ran is gone."""
    reason = f"the worker process of site {site} ended unexpectedly ({cause})"
    return Error(code=ErrorCode.CLIENT_APP_CRASHED, reason=reason)


@contextmanager
def acting_as_server(run_id: int) -> Iterator[None]:
    """Let a server app build messages with the plain constructor, which asks who is running."""
    names = ("_task_id", "_run_id", "_node_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, SERVER_NODE_ID
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


def engine_nodes(grid: Grid, count: int, *, timeout: float) -> list[int]:
    """Return the ids that Flower's engine drew for its nodes, in the order of their partitions.

    The engine starts the server app before it registers its nodes, so this waits for them.

    Raises:
        BackendError: There are fewer than `count` nodes after `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        # A dictionary keeps the order of registration, `get_node_ids` is a set without one.
        nodes: dict[int, object] = grid.state.nodes  # type: ignore[attr-defined]
        if len(nodes) >= count:
            return list(itertools.islice(nodes, count))
        time.sleep(0.01)
    raise BackendError("Flower's simulation engine did not register its nodes; see its log.")


@contextmanager
def quiet_flower() -> Iterator[None]:
    """Silence Flower's logger: what goes wrong reaches the caller as an exception or a reply."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
