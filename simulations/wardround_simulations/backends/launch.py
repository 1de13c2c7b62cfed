"""Starts a worker process: warm from a fork server where there is one, else spawned afresh."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

from wardround_simulations.backends.worker import work

# Imported once by the fork server, and with that in every worker from its first moment.
# The first step of a torch optimiser imports torch._dynamo, which takes most of a second.
_PRELOAD = [
    *("torch", "torch._dynamo"),
    *("wardround_client.app", "wardround_simulations.backends.answer"),
]

_main_module_lock = threading.Lock()


def launch(number: int, device: str) -> tuple[BaseProcess, Connection]:
    """Start worker `number`, on GPU ``number % count`` if the device is "cuda".

    Returns:
        The process, and our end of the pipe to it. With a fork server that is just starting this
        takes as long as its imports.

    Raises:
        OSError: The process cannot be started.
        EOFError: The fork server ended.
    """
    context = warm_context()
    ours, theirs = context.Pipe()
    try:
        process = context.Process(
            target=work,
            args=(theirs, _device_of(number, device), _logging_levels()),
            name=f"worker-{number}",
            daemon=True,
        )
        with _main_module_hidden():
            process.start()
    except BaseException:
        ours.close()
        raise
    finally:
        # The worker's end has to be the worker's alone: its closing is how we hear of its end.
        theirs.close()
    return process, ours


def leave_interrupts_to_the_main_thread() -> None:
    """Block Ctrl-C in this thread, and so in the fork server and the workers it starts."""
    # The tracker first: it unblocks the signal in the thread that starts it.
    resource_tracker.ensure_running()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def warm_context() -> ForkServerContext | SpawnContext:
    """How processes are started here: by a fork server that has imported what they need."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


def _device_of(number: int, device: str) -> str:
    if device != "cuda":
        return device
    import torch  # noqa: PLC0415  (a second that a machine without GPU need not wait)

    return f"cuda:{number % torch.cuda.device_count()}"


def _logging_levels() -> dict[str, int]:
    """Return the level of every logger that has one of its own; "" is the root."""
    loggers = {"": logging.getLogger(), **logging.getLogger().manager.loggerDict}
    return {
        name: logger.level
        for name, logger in loggers.items()
        if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET
    }


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep a new worker from importing the command's own module.

    multiprocessing would have each run it again, to find there what was pickled from it; it costs
    every worker the import of the whole command line, and nothing of ours is pickled from it.
    """
    with _main_module_lock:
        names = vars(sys.modules["__main__"])
        hidden: dict[str, Any] = {
            name: names[name] for name in ("__file__", "__spec__") if name in names
        }
        names.pop("__file__", None)
        names["__spec__"] = None
        try:
            yield
        finally:
            names.update(hidden)
