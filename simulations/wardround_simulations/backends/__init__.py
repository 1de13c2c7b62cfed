"""Ways to run every site of a federation: ``inline``, ``process`` or ``ray``.

Each drives the same two objects that hospitals run, ``ServerApp(grid, context)`` and
``ClientApp(message, context)``; they differ only in where the client app is called. The first two
agree to the last bit, since every site's arithmetic runs on one torch thread.

This module imports neither Flower nor torch, so that a command can start its workers first and
load those while they warm up::

    with ProcessPool(workers=2, device="cpu").start() as pool:  # or warm_pool(...)
        ...                     # read the study, build the cohorts
        run("process", ..., pool=pool)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from wardround_simulations.backends.pool import ProcessPool
from wardround_simulations.threads import one_torch_thread

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

__all__ = ["BackendName", "ClientFactory", "Node", "ProcessPool", "run", "warm_pool"]

# Flower reads this when it is first imported, here and in every worker.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

BackendName = Literal["inline", "process", "ray"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One virtual site.

    Its client app finds ``node_config["site"] == name`` and ``node_config["partition-id"] ==
    node_id - 1`` in its context.
    """

    node_id: int  # 1, 2, ... in the order of the nodes given to `run`
    name: str


class ClientFactory(Protocol):
    """Builds the client app; called once in each worker process, once inline.

    It is pickled on its way, so it has to lie in a module that workers can import: any but the
    command's own ``__main__``, which they leave alone.
    """

    def __call__(self, device: str) -> ClientApp:
        """Return the client app that serves any site on `device` ("cpu", "cuda" or "cuda:1")."""
        ...


def warm_pool(
    backend: BackendName, *, workers: int, device: Literal["auto", "cpu", "cuda"]
) -> ProcessPool | None:
    """Start workers before torch is imported, if that is what the backend needs.

    Nothing is started where a GPU might be used: which device it will be is known only to torch.
    """
    if backend != "process" or device == "cuda":
        return None
    if device == "auto" and any(Path(driver).exists() for driver in _GPU_DRIVERS):
        return None
    return ProcessPool(workers=workers, device="cpu").start()


# Device files of NVIDIA's driver, on Linux and under Windows.
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")


def run(
    backend: BackendName,
    *,
    server_app: ServerApp,
    client_factory: ClientFactory,
    nodes: Sequence[Node],
    run_id: int,
    workers: int,
    device: str,
    pool: ProcessPool | None = None,
) -> None:
    """Run `server_app` to its end, with every node served by client apps of `client_factory`.

    A client app that raises, or whose process ends, is an error reply to the server app: the
    round goes on. Torch computes on one thread meanwhile, in this process too.

    Args:
        backend: Where client apps run: here, in worker processes, or in Ray's actors.
        server_app: Called once in this process; what it raises is raised here.
        client_factory: Builds the client app in each process that needs one.
        nodes: The virtual sites, with ids 1 to n in order.
        run_id: The id that both apps find in their contexts and messages.
        workers: Processes for `process` and for a local `ray`; `inline` has no use for it.
        device: "cpu" or "cuda"; `process` spreads its workers over the GPUs there are.
        pool: Workers of the `process` backend that were started early. It serves one run and is
            closed at its end.

    Raises:
        BackendError: The machinery failed: workers do not start, Ray is not installed, the
            version of Flower is not one that this was tested with.
        ValueError: The nodes are not numbered from 1, or there is not at least one worker.
    """
    if [node.node_id for node in nodes] != list(range(1, len(nodes) + 1)):
        msg = "nodes have to be numbered 1, 2, ... in order"
        raise ValueError(msg)
    if workers < 1:
        msg = "at least one worker is needed"
        raise ValueError(msg)
    # Each backend is imported when it is asked for: Ray is an extra, and Flower takes a while.
    with one_torch_thread():
        if backend == "inline":
            from wardround_simulations.backends.inline import run_inline  # noqa: PLC0415

            run_inline(server_app, client_factory, nodes, run_id=run_id, device=device)
        elif backend == "process":
            from wardround_simulations.backends.process import run_process  # noqa: PLC0415

            pool = pool or ProcessPool(workers=min(workers, max(1, len(nodes))), device=device)
            with pool.start():
                run_process(server_app, client_factory, nodes, run_id=run_id, pool=pool)
        else:
            from wardround_simulations.backends.ray import run_ray  # noqa: PLC0415

            run_ray(
                server_app, client_factory, nodes, run_id=run_id, workers=workers, device=device
            )
