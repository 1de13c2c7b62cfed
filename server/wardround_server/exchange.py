"""Sending one request to many sites over Flower's grid and taking the answers as they come."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

POLL_SECONDS = 0.02
"""Pause between two looks for answers; a grid that waits by itself makes it shorter."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a node sent back: content, or the reason why there is none."""

    node_id: int
    content: RecordDict | None
    failure: str = ""


class Exchange(Protocol):
    """Carries requests to sites and brings their answers."""

    def nodes(self, *, at_least: int, deadline: float) -> tuple[int, ...]:
        """Ids of the nodes that are connected, waiting up to `deadline` seconds for enough."""

    def ask(
        self,
        nodes: Sequence[int],
        message_type: str,
        content: RecordDict,
        *,
        group: str,
        deadline: float,
    ) -> Iterator[Answer]:
        """Send `content` to every node and yield each answer as it arrives."""

    def ask_each(
        self, requests: Mapping[int, tuple[str, RecordDict]], *, group: str, deadline: float
    ) -> Iterator[Answer]:
        """Send each node a request of its own (type, content) and yield answers as they arrive.

        A node that is silent for `deadline` seconds yields nothing.
        """


class GridExchange:
    """An exchange over Flower's grid, as simulations have it: nothing is lost on the way."""

    def __init__(self, grid: Grid, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._grid = grid
        self._clock = clock

    def nodes(self, *, at_least: int, deadline: float) -> tuple[int, ...]:
        """Ids of the nodes that are connected, waiting up to `deadline` seconds for enough."""
        end = self._clock() + deadline
        while True:
            nodes = tuple(sorted(self._grid.get_node_ids()))
            if len(nodes) >= at_least or self._clock() >= end:
                return nodes
            time.sleep(POLL_SECONDS)

    def ask(
        self,
        nodes: Sequence[int],
        message_type: str,
        content: RecordDict,
        *,
        group: str,
        deadline: float,
    ) -> Iterator[Answer]:
        """Send `content` to every node and yield each answer as it arrives.

        The same content object goes into every message, so that a backend can send its arrays
        once.
        """
        requests = dict.fromkeys(nodes, (message_type, content))
        return self.ask_each(requests, group=group, deadline=deadline)

    def ask_each(
        self, requests: Mapping[int, tuple[str, RecordDict]], *, group: str, deadline: float
    ) -> Iterator[Answer]:
        """Send each node a request of its own (type, content) and yield answers as they arrive.

        A node that is silent for `deadline` seconds yields nothing.
        """
        nodes = list(requests)
        # One by one: the first site can begin while the last one's message is being made.
        messages = (
            self._grid.create_message(content, message_type, node, group, ttl=deadline)
            for node, (message_type, content) in requests.items()
        )
        waiting = dict(zip(self._grid.push_messages(messages), nodes, strict=True))
        end = self._clock() + deadline
        while waiting and self._clock() < end:
            replies = list(self._grid.pull_messages(list(waiting)))
            for reply in replies:
                waiting.pop(reply.metadata.reply_to_message_id, None)
                yield _answer(reply)
            if not replies:
                time.sleep(POLL_SECONDS)


def _answer(reply: Message) -> Answer:
    node_id = reply.metadata.src_node_id
    if reply.has_error():
        reason = reply.error.reason or f"error {reply.error.code}"
        return Answer(node_id=node_id, content=None, failure=reason)
    return Answer(node_id=node_id, content=reply.content)
