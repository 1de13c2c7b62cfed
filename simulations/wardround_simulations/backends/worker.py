"""What runs in a worker process: a client app that serves any site, one message at a time."""

from __future__ import annotations

import gc
import logging
import logging.handlers
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from wardround_shared.errors import WardroundError
from wardround_simulations.backends.segments import Incoming, ReplyWriter, large_bytes

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict
    from flwr.clientapp import ClientApp

    from wardround_simulations.backends import ClientFactory


@dataclass(frozen=True, kw_only=True)
class Order:
    """Parent to worker: answer this message, in this context."""

    message: Message
    context: Context
    segment: str  # a name for the reply's segment, so that the parent knows it if we do not live


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Worker to parent: the client app is built."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Worker to parent: the client app cannot be built, here or in any other worker."""

    name: str  # the exception's class
    error: WardroundError | None


@dataclass(frozen=True, kw_only=True)
class Logged:
    """Worker to parent: a log record, its text already formatted."""

    record: logging.LogRecord


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Worker to parent: the reply, and the node's state as the client app left it."""

    message: Message
    state: RecordDict


class _Outbox:
    """The worker's end of the pipe, shared by whichever threads log."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, packed: bytes) -> None:
        with self._lock:
            self._connection.send_bytes(packed)

    def put_nowait(self, record: logging.LogRecord) -> None:
        """Take a record from a QueueHandler, to which this is the queue."""
        self.send(pickle.dumps(Logged(record=record)))

    def get(self) -> logging.LogRecord:  # pragma: no cover  (the type of a queue asks for it)
        raise NotImplementedError


def work(connection: Connection, device: str, levels: Mapping[str, int]) -> None:
    """Serve messages until the parent closes the pipe; the target of a worker process.

    The first thing in the pipe is the pickled client factory, then come packed orders. It leaves
    Ctrl-C to the parent, and does not outlive it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    outbox = _Outbox(connection)
    _route_logging(outbox, levels)
    try:
        _load()
        app = _build(connection.recv_bytes(), device, outbox)
        incoming, writer = Incoming(), ReplyWriter()
        while app is not None:
            order: Order = incoming.unpack(connection.recv_bytes())
            outbox.send(_packed_reply(app, order, writer))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has closed the pipe: the run is over


def _leave_with_parent() -> None:
    """End this process at once when the parent is gone, in the middle of a training too."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _route_logging(outbox: _Outbox, levels: Mapping[str, int]) -> None:
    """Send records to the parent, from the levels that are set there on."""
    logging.getLogger().handlers[:] = [logging.handlers.QueueHandler(outbox)]
    logging.getLogger("flwr").handlers.clear()  # its console would say everything twice
    logging.captureWarnings(capture=True)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def _load() -> None:
    """Import what client apps need while the parent is still busy; hold torch to one thread."""
    import torch  # noqa: PLC0415  (only workers need it here)
    import torch._dynamo  # noqa: PLC0415  (the first step of an optimiser would; it takes long)

    import wardround_simulations.backends.answer  # noqa: F401, PLC0415

    torch.set_num_threads(1)
    gc.freeze()  # the modules stay: nothing to look through again and again


def _build(factory: bytes, device: str, outbox: _Outbox) -> ClientApp | None:
    """Return the client app, or None after telling the parent that there will be none."""
    try:
        build: ClientFactory = pickle.loads(factory)  # noqa: S301  (from our own parent)
        app = build(device)
    except Exception as error:  # noqa: BLE001  (the parent raises it where it can be seen)
        logging.getLogger(__name__).debug("%s", traceback.format_exc())
        known = error if isinstance(error, WardroundError) else None
        outbox.send(pickle.dumps(Refused(name=type(error).__name__, error=known)))
        return None
    outbox.send(pickle.dumps(Ready()))
    return app


def _packed_reply(app: ClientApp, order: Order, writer: ReplyWriter) -> bytes:
    from wardround_simulations.backends.answer import answer  # noqa: PLC0415  (imports Flower)

    reply, state = answer(app, order.message, order.context), order.context.state
    data = large_bytes(state) + (large_bytes(reply.content) if reply.has_content() else [])
    return writer.pack(Answered(message=reply, state=state), data, order.segment)
