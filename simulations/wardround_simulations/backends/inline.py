"""Every site in this process, one after another: for tests, and for a debugger."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from wardround_simulations.backends.answer import answer
from wardround_simulations.backends.grid import LocalGrid, drive

if TYPE_CHECKING:
    from wardround_simulations.backends import ClientFactory, Node


class InlineGrid(LocalGrid):
    """A grid whose nodes work when their replies are asked for."""

    def __init__(self, client_app: ClientApp, nodes: "Sequence[Node]", *, run_id: int) -> None:
        super().__init__(nodes, run_id=run_id)
        self._client_app = client_app
        self._pending: dict[str, tuple[Message, Context]] = {}

    def _accept(self, message: Message, context: Context) -> None:
        self._pending[message.metadata.message_id] = (message, context)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Answer the oldest pending message of these, and return that one reply."""
        wanted = set(message_ids)
        number = next((number for number in self._pending if number in wanted), None)
        if number is None:
            return []
        message, context = self._pending.pop(number)
        return [answer(self._client_app, message, context)]


def run_inline(
    server_app: ServerApp,
    client_factory: "ClientFactory",
    nodes: "Sequence[Node]",
    *,
    run_id: int,
    device: str,
) -> None:
    """Run the server app with one client app in this process."""
    drive(server_app, InlineGrid(client_factory(device), nodes, run_id=run_id))
