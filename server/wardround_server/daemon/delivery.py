"""An exchange over a real network: requests are sent again until they are answered.

A site is given up for one exchange when nothing has moved there for the study's deadline: neither
its work, nor the upload of its answer, nor its connection.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flwr.app import RecordDict

from wardround_server.exchange import Answer
from wardround_shared.delivery import (
    COLLECT,
    HOLD_SECONDS,
    Working,
    carried,
    is_unknown,
    new_ticket,
    opened,
    read_working,
)
from wardround_shared.errors import ProtocolError
from wardround_shared.packing import data_size

PATIENCE_SECONDS = HOLD_SECONDS + 12.0
"""After so long without a word a site is asked for the answer again: the first word may be lost."""

_SHORTEST_PAUSE, _LONGEST_PAUSE, _SHARE = 0.04, 0.5, 0.05
_LOOK_SECONDS = 2.0
"""How often nodes are looked at: one that has connected anew has lost what was on its way."""

_SLOWEST_LINE = 16_000.0
"""Bytes a second that the slowest line carries: a large request has that much more time."""


class Node(Protocol):
    """A node as the transport knows it."""

    @property
    def online(self) -> bool:
        """Whether its connection is alive."""

    @property
    def activated(self) -> str:
        """When it last connected."""


class Reply(Protocol):
    """A whole answer to one message."""

    @property
    def message_id(self) -> str:
        """Of the message that it answers."""

    @property
    def content(self) -> RecordDict | None:
        """None if there is none."""

    @property
    def failure(self) -> str:
        """Why there is none."""


class Transport(Protocol):
    """What `wardround_server.flower.grid.RunGrid` does; tests have one in memory."""

    def nodes(self) -> Mapping[int, Node]:
        """Nodes by id."""

    def send(
        self, requests: Sequence[tuple[int, str, RecordDict]], *, group: str, ttl: float
    ) -> list[str]:
        """Send (node, type, content) each; returns the ids of the messages."""

    def replies(self, message_ids: Sequence[str]) -> Iterable[Reply]:
        """Whole replies to these messages that have come since the last call, one by one."""

    def pieces(self, message_id: str) -> int:
        """Pieces that have arrived of the reply to a message."""

    def forget(self, message_id: str) -> None:
        """Take no reply to this message any more."""


Progress = Callable[[int, Working], None]
"""Told how far a node is."""


@dataclass(kw_only=True)
class _Parcel:
    """One request on its way to one node and back.

    Attributes:
        moved: when something last moved.
        sent: when the last message was sent.
        seen: what the node last said of its work, and pieces of its answer.
        connected: since when the node had been connected then.
    """

    node: int
    kind: str
    content: RecordDict
    ticket: str
    sent: float
    moved: float
    connected: str
    seen: tuple[Working | None, int] = (None, 0)


class Delivery:
    """`Exchange` over a network; sites may be restarted, and messages lost."""

    def __init__(
        self,
        transport: Transport,
        *,
        progress: Progress = lambda _node, _working: None,
        check: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Carry requests over `transport`.

        Args:
            transport: to the nodes.
            progress: is told how far a node is.
            check: called while waiting; raises to break off.
            clock: in seconds.
            sleep: waits so many seconds.
        """
        self._transport = transport
        self._progress = progress
        self._check = check
        self._clock = clock
        self._sleep = sleep
        self._nodes: Mapping[int, Node] = {}

    def online(self) -> tuple[int, ...]:
        """Ids of the nodes that are connected now, ascending."""
        self._nodes = self._transport.nodes()
        return tuple(sorted(node for node, state in self._nodes.items() if state.online))

    def nodes(self, *, at_least: int, deadline: float) -> tuple[int, ...]:
        """Ids of the nodes that are connected, waiting up to `deadline` seconds for enough."""
        end = self._clock() + deadline
        while len(found := self.online()) < at_least and self._clock() < end:
            self._check()
            self._sleep(_LONGEST_PAUSE)
        return found

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
        requests = dict.fromkeys(nodes, (message_type, content))
        return self.ask_each(requests, group=group, deadline=deadline)

    def ask_each(
        self, requests: Mapping[int, tuple[str, RecordDict]], *, group: str, deadline: float
    ) -> Iterator[Answer]:
        """Send each node a request of its own (type, content) and yield answers as they arrive.

        A node yields nothing where nothing has moved for `deadline` seconds.
        """
        if not requests:
            return
        parcels = self._sent(requests, group=group, deadline=deadline)
        looked = answered = self._clock()
        while parcels:
            self._check()
            for answer in self._taken(parcels, group=group, deadline=deadline):
                answered = self._clock()
                yield answer
            now = self._clock()
            if now - looked > _LOOK_SECONDS:
                self._nodes, looked = self._transport.nodes(), now
                self._ask_again(parcels, group=group, deadline=deadline)
            for message_id, parcel in list(parcels.items()):
                if now - parcel.moved > deadline:
                    self._transport.forget(message_id)
                    del parcels[message_id]
            if parcels:
                pause = _SHARE * (now - answered)
                self._sleep(min(max(pause, _SHORTEST_PAUSE), _LONGEST_PAUSE))

    # --- parts -------------------------------------------------------------------------------

    def _sent(
        self, requests: Mapping[int, tuple[str, RecordDict]], *, group: str, deadline: float
    ) -> dict[str, _Parcel]:
        """All requests, on their way: message id -> parcel."""
        self._nodes = self._transport.nodes()
        tickets = {node: new_ticket() for node in requests}
        outgoing = [
            (node, kind, carried(content, tickets[node]))
            for node, (kind, content) in requests.items()
        ]
        ids = self._transport.send(outgoing, group=group, ttl=_ttl(deadline))
        now = self._clock()
        return {
            message_id: _Parcel(
                node=node,
                kind=kind,
                content=content,
                ticket=tickets[node],
                sent=now,
                moved=now + _seconds_for(content),
                connected=self.connected(node),
            )
            for message_id, (node, kind, content) in zip(ids, outgoing, strict=True)
        }

    def _taken(
        self, parcels: dict[str, _Parcel], *, group: str, deadline: float
    ) -> Iterator[Answer]:
        """Take what has come, and ask on where the answer is still to come."""
        for reply in self._transport.replies(list(parcels)):
            parcel = parcels.pop(reply.message_id, None)
            if parcel is None:
                continue  # the answer to a message that was sent again meanwhile
            read = self._read(parcel, reply)
            del reply  # it may be as large as the model
            if isinstance(read, Answer):
                yield read
                del read
            else:
                message_id = self._send(parcel, read, group=group, deadline=deadline)
                parcels[message_id] = parcel
        for message_id, parcel in parcels.items():
            self._saw(parcel, (parcel.seen[0], self._transport.pieces(message_id)))

    def _read(self, parcel: _Parcel, reply: Reply) -> Answer | str:
        """The answer in a reply; where it is still to come, the type of the next message."""
        if reply.content is None:
            return Answer(node_id=parcel.node, content=None, failure=reply.failure)
        try:
            _, content = opened(reply.content)
            working = read_working(content)
        except ProtocolError as error:
            return Answer(node_id=parcel.node, content=None, failure=str(error))
        if is_unknown(content):
            return parcel.kind
        if working is None:
            return Answer(node_id=parcel.node, content=content)
        self._progress(parcel.node, working)
        self._saw(parcel, (working, 0))
        return COLLECT

    def _saw(self, parcel: _Parcel, seen: tuple[Working | None, int]) -> None:
        if seen != parcel.seen:
            parcel.seen, parcel.moved = seen, max(parcel.moved, self._clock())

    def _send(self, parcel: _Parcel, kind: str, *, group: str, deadline: float) -> str:
        """Send a parcel's request, or ask for its answer; returns the id of the message."""
        content = parcel.content
        if kind == COLLECT:
            content = carried(RecordDict(), parcel.ticket)
        requests = [(parcel.node, kind, content)]
        (message_id,) = self._transport.send(requests, group=group, ttl=_ttl(deadline))
        parcel.sent, parcel.connected = self._clock(), self.connected(parcel.node)
        return message_id

    def _ask_again(self, parcels: dict[str, _Parcel], *, group: str, deadline: float) -> None:
        """Ask for the answer where the first message, or its answer, may be lost."""
        now = self._clock()
        for message_id, parcel in list(parcels.items()):
            state = self._nodes.get(parcel.node)
            if state is None or not state.online:
                continue
            quiet = now - max(parcel.sent + _seconds_for(parcel.content), parcel.moved)
            if state.activated == parcel.connected and quiet < PATIENCE_SECONDS:
                continue
            self._transport.forget(message_id)
            del parcels[message_id]
            asked = self._send(parcel, COLLECT, group=group, deadline=deadline)
            parcels[asked] = parcel

    def connected(self, node: int) -> str:
        """Since when a node has been connected, as text; another text means another process."""
        state = self._nodes.get(node)
        return "" if state is None else state.activated


def _ttl(deadline: float) -> float:
    """Seconds for which a message waits for a node that is not connected."""
    return max(2 * deadline, 600.0)


def _seconds_for(content: RecordDict) -> float:
    """Seconds that a slow line takes for a request."""
    return data_size(content) / _SLOWEST_LINE
