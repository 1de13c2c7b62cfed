"""What grids of virtual sites share: the run, the nodes and their contexts."""

import itertools
import time
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from wardround_simulations.backends.flower import (
    SERVER_NODE_ID,
    Run,
    acting_as_server,
    empty_run,
    new_message,
    readdressed,
)

if TYPE_CHECKING:
    from wardround_simulations.backends import Node


def node_context(node: "Node", *, run_id: int, nodes: int) -> Context:
    """Return the context in which a node's client app begins the run."""
    return Context(
        run_id=run_id,
        node_id=node.node_id,
        node_config={
            "partition-id": node.node_id - 1,
            "num-partitions": nodes,
            "site": node.name,
        },
        state=RecordDict(),
        run_config={},
    )


def server_context(run_id: int) -> Context:
    """Return the context in which the server app runs."""
    return Context(
        run_id=run_id,
        node_id=SERVER_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config={},
    )


class NodeGrid(Grid):
    """A grid of virtual sites; where their client apps run is left to its children."""

    def __init__(self, nodes: "Sequence[Node]", *, run_id: int) -> None:
        self._run = empty_run(run_id)
        self._node_ids = [node.node_id for node in nodes]

    def set_run(self, run: Run) -> None:
        """Set what `run` returns."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to node `dst_node_id`, to be pushed."""
        return new_message(
            content,
            run_id=self._run.run_id,
            message_type=message_type,
            dst_node_id=dst_node_id,
            group_id=group_id,
            ttl=ttl,
        )

    def get_node_ids(self) -> list[int]:
        """Return the ids of all nodes, ascending."""
        return list(self._node_ids)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send the messages to their nodes and return the ids under which replies are pulled.

        Raises:
            ValueError: There is no such node.
        """
        ids = []
        for message in messages:
            if message.metadata.dst_node_id not in self._node_ids:
                msg = f"there is no node {message.metadata.dst_node_id}"
                raise ValueError(msg)
            ids.append(self._push(message))
        return ids

    @abstractmethod
    def _push(self, message: Message) -> str:
        """Send one message and return its id."""

    @abstractmethod
    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that are there and were not pulled yet."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Push the messages and pull until every reply is there or `timeout` seconds are over."""
        end = None if timeout is None else time.monotonic() + timeout
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        while waiting and (end is None or time.monotonic() < end):
            arrived = self.pull_messages(waiting)
            waiting.difference_update(reply.metadata.reply_to_message_id for reply in arrived)
            replies.extend(arrived)
        return replies


class LocalGrid(NodeGrid):
    """A grid without Flower's SuperLink; every node's context stays in this process."""

    def __init__(self, nodes: "Sequence[Node]", *, run_id: int) -> None:
        super().__init__(nodes, run_id=run_id)
        # Messages are numbered: two runs of one study see the same ids.
        self._numbers = itertools.count(1)
        self._contexts = {
            node.node_id: node_context(node, run_id=run_id, nodes=len(nodes)) for node in nodes
        }

    def _push(self, message: Message) -> str:
        number = str(next(self._numbers))
        context = self._contexts[message.metadata.dst_node_id]
        self._accept(readdressed(message, message_id=number), context)
        return number

    @abstractmethod
    def _accept(self, message: Message, context: Context) -> None:
        """Take a numbered message; its reply is to come out of `pull_messages`."""


def drive(server_app: ServerApp, grid: NodeGrid) -> None:
    """Call the server app as Flower would."""
    with acting_as_server(grid.run.run_id):
        server_app(grid, server_context(grid.run.run_id))
