"""Every site in a pool of worker processes: the default."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flwr.app import Context, Message
from flwr.serverapp import ServerApp

from wardround_simulations.backends.grid import LocalGrid, drive
from wardround_simulations.backends.pool import ProcessPool

if TYPE_CHECKING:
    from wardround_simulations.backends import ClientFactory, Node

# Seconds that a pull waits for a reply, so that the server app can look at its clock.
_PATIENCE = 0.5


class ProcessGrid(LocalGrid):
    """A grid whose nodes work in a pool; any worker serves any node."""

    def __init__(self, pool: ProcessPool, nodes: "Sequence[Node]", *, run_id: int) -> None:
        super().__init__(nodes, run_id=run_id)
        self._pool = pool

    def _accept(self, message: Message, context: Context) -> None:
        self._pool.submit(message, context)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there, after half a second at most without one.

        Raises:
            BackendError: The workers do not start, or the client app cannot be built.
        """
        return self._pool.collect(frozenset(message_ids), timeout=_PATIENCE)


def run_process(
    server_app: ServerApp,
    client_factory: "ClientFactory",
    nodes: "Sequence[Node]",
    *,
    run_id: int,
    pool: ProcessPool,
) -> None:
    """Run the server app with client apps in the workers of a started pool."""
    pool.serve(client_factory)
    drive(server_app, ProcessGrid(pool, nodes, run_id=run_id))
