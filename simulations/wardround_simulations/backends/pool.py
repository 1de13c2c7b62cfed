"""A pool of warm worker processes. One thread here hands out messages and takes in replies.

A worker's states, and what leads from one to the next::

    starting --Ready--> idle --Order--> busy --Answered--> idle
       |                  |               |
       `------ its process ends: a new one takes its place; if busy, its message gets an error

A busy worker may have one more order lying in its pipe, so that it goes on without waiting for us;
should it end before, that message goes to another. The last messages of a round are not handed out
in advance: whoever is ready first takes them.

Neither Flower nor torch is imported here, so that workers are on their way within milliseconds
of a command's start, while the command itself imports the two.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import pickle
import threading
from collections import deque
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import TYPE_CHECKING, Self

from wardround_shared.errors import BackendError
from wardround_simulations.backends.launch import launch, leave_interrupts_to_the_main_thread
from wardround_simulations.backends.segments import (
    Names,
    Outgoing,
    ReplyReader,
    discard,
    large_bytes,
    pack,
)
from wardround_simulations.backends.worker import Answered, Logged, Order, Ready, Refused

if TYPE_CHECKING:
    from flwr.app import Context, Message

    from wardround_simulations.backends import ClientFactory

_log = logging.getLogger(__name__)

# So many workers in a row may end before they are ready; after that it is not by accident.
_FAILED_STARTS = 3
# Seconds that a process is given to be gone once its pipe is closed or it was told to end.
_GRACE = 2.0
# Bytes that a pipe takes while nobody reads at its other end, on any system. A larger order would
# keep us from reading, while its worker may be waiting for us to read its reply.
_AHEAD = 4096


@dataclass(eq=False, kw_only=True)
class _Task:
    message: Message
    context: Context
    segment: str  # a name for the reply's segment, should the worker need a new one
    held: list[bytes] = field(default_factory=list)


@dataclass(eq=False, kw_only=True)
class _Worker:
    number: int
    process: BaseProcess
    connection: Connection
    replies: ReplyReader = field(default_factory=ReplyReader)
    told: bool = False  # has been sent the factory
    ready: bool = False
    tasks: deque[_Task] = field(default_factory=deque)  # it works on the first


class ProcessPool:
    """Worker processes that answer messages to any node, for one run.

    ``start`` returns at once; ``serve`` says which client app it is when that is known.

    Args:
        workers: The number of processes.
        device: "cpu", or "cuda" to place worker i on GPU ``i % count``.
    """

    def __init__(self, *, workers: int, device: str = "cpu") -> None:
        self._size = workers
        self._device = device
        self._names = Names()
        # Shared by both threads, and touched under this condition only.
        self._changed = threading.Condition()
        self._factory: bytes | None = None
        self._submitted: list[_Task] = []
        self._replies: dict[str, Message] = {}
        self._failure: BaseException | None = None
        self._woken = False
        self._closing = False
        self._wake_r, self._wake_w = multiprocessing.Pipe(duplex=False)
        # The dispatching thread's own.
        self._workers: list[_Worker] = []
        self._pending: deque[_Task] = deque()
        self._homes: dict[int, int] = {}  # by node: the worker that has its data open
        self._outgoing = Outgoing(self._names)
        self._failed_starts = 0
        self._thread = threading.Thread(target=self._dispatch, name="dispatch", daemon=True)

    @property
    def segment_prefix(self) -> str:
        """How the names of this pool's shared-memory segments begin."""
        return self._names.prefix

    def start(self) -> Self:
        """Start the workers in the background; a second call does nothing."""
        if self._thread.ident is None:
            self._thread.start()
        return self

    def serve(self, client_factory: ClientFactory) -> None:
        """Tell the workers how to build the client app."""
        factory = pickle.dumps(client_factory)
        with self._changed:
            self._factory = factory
            self._wake()

    def submit(self, message: Message, context: Context) -> None:
        """Queue a message for its node, whose `context` it sees and changes."""
        task = _Task(message=message, context=context, segment=self._names.new())
        with self._changed:
            self._raise_failure()
            self._submitted.append(task)
            self._wake()

    def collect(self, message_ids: AbstractSet[str], *, timeout: float) -> list[Message]:
        """Return the replies to these messages, after at most `timeout` seconds without one.

        Raises:
            BackendError: The workers do not start, or the client app cannot be built.
            WardroundError: What the client factory raised, if it is one of ours.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._failure or not message_ids.isdisjoint(self._replies), timeout
            )
            self._raise_failure()
            there = [number for number in self._replies if number in message_ids]
            return [self._replies.pop(number) for number in there]

    def close(self) -> None:
        """End the workers, whatever they do, and unlink all shared memory; safe to repeat."""
        with self._changed:
            first, self._closing = not self._closing, True
            if first:
                self._wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._wake_r.close()
        self._wake_w.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _wake(self) -> None:
        """Have the dispatching thread look; the condition is held, the pipe never fills."""
        if not self._woken:
            self._woken = True
            self._wake_w.send_bytes(b"")

    # What follows runs in the dispatching thread.

    def _dispatch(self) -> None:
        failure: BaseException = BackendError("The worker processes have been ended.")
        try:
            leave_interrupts_to_the_main_thread()
            while not self._closing:
                self._fill()
                self._hand_out()
                self._listen()
        except BaseException as error:  # noqa: BLE001  (raised again in the main thread)
            failure = error
        finally:
            self._dismiss()
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _fill(self) -> None:
        """Start a process for every place in the pool that has none."""
        taken = {worker.number for worker in self._workers}
        for number in range(self._size):
            if number not in taken and not self._closing:
                try:
                    process, connection = launch(number, self._device)
                except (OSError, EOFError) as error:
                    self._count_failed_start(type(error).__name__)
                else:
                    self._workers.append(
                        _Worker(number=number, process=process, connection=connection)
                    )

    def _hand_out(self) -> None:
        """Send the factory to whom it was not sent yet, and messages to idle workers."""
        with self._changed:
            factory = self._factory
            self._pending.extend(self._submitted)
            submitted, self._submitted = self._submitted, []
        for new in submitted:
            self._hold(new, large_bytes(new.message.content))
        if factory is not None:
            for worker in self._workers:
                if not worker.told:
                    worker.told = True
                    _send(worker, factory)
        for worker in self._workers:
            if worker.ready and not worker.tasks and (task := self._next_task(worker)):
                self._order(worker, task)
        for worker in self._workers:
            if len(worker.tasks) == 1 and len(self._pending) > self._size:
                task = self._next_task(worker)
                if task is not None and not self._order(worker, task, at_most=_AHEAD):
                    self._pending.appendleft(task)

    def _next_task(self, worker: _Worker) -> _Task | None:
        """Take the oldest message for a node that this worker served last, else the oldest.

        None whose node is busy: a context is in one place at a time.
        """
        busy = {task.context.node_id for other in self._workers for task in other.tasks}
        free = (task for task in self._pending if task.context.node_id not in busy)
        chosen = None
        for task in free:
            if self._homes.get(task.context.node_id) == worker.number:
                chosen = task
                break
            chosen = chosen or task
        if chosen is not None:
            self._pending.remove(chosen)
        return chosen

    def _order(self, worker: _Worker, task: _Task, *, at_most: int | None = None) -> bool:
        """Send a task, unless the pipe would have to take more than `at_most` bytes."""
        self._hold(task, large_bytes(task.context.state))
        order = Order(message=task.message, context=task.context, segment=task.segment)
        packed = pack(order, self._outgoing.place)
        if at_most is not None and len(packed) > at_most:
            self._recall(task)
            return False
        worker.tasks.append(task)
        self._homes[task.context.node_id] = worker.number
        _send(worker, packed)
        return True

    def _recall(self, task: _Task) -> None:
        """Make a task as it was before it was handed out."""
        for data in large_bytes(task.context.state):
            self._outgoing.release(data)
            task.held.remove(data)

    def _hold(self, task: _Task, data: list[bytes]) -> None:
        for item in data:
            self._outgoing.hold(item)
        task.held.extend(data)

    def _listen(self) -> None:
        """Wait until a worker says something or ends, or the main thread wants something."""
        ready = wait([self._wake_r, *(worker.connection for worker in self._workers)])
        if self._wake_r in ready:
            with self._changed:
                self._wake_r.recv_bytes()
                self._woken = False
        for worker in [worker for worker in self._workers if worker.connection in ready]:
            try:
                said = worker.replies.unpack(worker.connection.recv_bytes())
            except (EOFError, OSError):
                self._bury(worker)
            else:
                self._hear(worker, said)

    def _hear(self, worker: _Worker, said: Ready | Refused | Logged | Answered) -> None:
        match said:
            case Logged(record=record):
                logger = logging.getLogger(record.name)
                if logger.isEnabledFor(record.levelno):
                    logger.handle(record)
            case Ready():
                worker.ready = True
                self._failed_starts = 0
            case Refused(name=name, error=error):
                raise error or BackendError(
                    f"The client app cannot be built in a worker process ({name}): "
                    "run with --backend inline to see where."
                )
            case Answered(message=message, state=state):
                task = worker.tasks.popleft()
                task.context.state = state
                self._finish(task, message)

    def _finish(self, task: _Task, reply: Message) -> None:
        """Let go of a task, with this reply as the outcome."""
        for data in task.held:
            self._outgoing.release(data)
        with self._changed:
            self._replies[task.message.metadata.message_id] = reply
            self._changed.notify_all()

    def _bury(self, worker: _Worker) -> None:
        """Note that a worker's process has ended; the next `_fill` replaces it."""
        cause = _end(worker)
        self._workers.remove(worker)
        if not worker.ready:
            self._count_failed_start(cause)
        elif worker.tasks:
            self._report_crash(worker.tasks.popleft(), cause)
            for task in worker.tasks:  # it never began them
                self._recall(task)
            self._pending.extendleft(reversed(worker.tasks))

    def _report_crash(self, task: _Task, cause: str) -> None:
        # Flower is imported by now, since there is a message.
        from flwr.app import Message  # noqa: PLC0415

        from wardround_simulations.backends.flower import process_ended  # noqa: PLC0415

        error = process_ended(task.context.node_config["site"], cause)
        _log.warning("%s; a new one takes its place", error.reason)
        self._finish(task, Message(error, reply_to=task.message))

    def _count_failed_start(self, cause: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= _FAILED_STARTS:
            raise BackendError(
                f"Worker processes ended {_FAILED_STARTS} times in a row while they started "
                f"({cause}): run with --backend inline to see why."
            )

    def _dismiss(self) -> None:
        """End every worker by its own handle and unlink all segments."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            _end(worker)
        self._outgoing.close()


def _send(worker: _Worker, packed: bytes) -> None:
    # A worker that is gone is heard of when its end of the pipe is read.
    with contextlib.suppress(OSError):
        worker.connection.send_bytes(packed)


def _end(worker: _Worker) -> str:
    """See to it that the process and its shared memory are gone; return what ended it."""
    worker.connection.close()
    worker.process.join(_GRACE)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
    code = worker.process.exitcode
    worker.process.close()
    worker.replies.close()
    if worker.tasks:
        discard(worker.tasks[0].segment)
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
