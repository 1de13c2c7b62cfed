"""An exchange over a real network: requests are sent again until they are answered.

A site is given up for one exchange when nothing has moved there for the study's deadline: neither
its work, nor the upload of its answer, nor its connection.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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

_SHORTEST_PAUSE, _LONGEST_PAUSE, _SHARE = 0.06, 0.5, 0.1
_UPLOAD = "upload of the answer"

_LOOK_SECONDS = 2.0
"""How often nodes are looked at: one that has connected anew has lost what was on its way."""

_SLOWEST_LINE = 100_000.0
"""Bytes a second that the slowest line carries: a large request has that much more time."""

_MOST_STAGES, _MOST_CONNECTIONS, _MOST_LOSSES = 16, 8, 5
"""What counts as movement in one exchange is bounded: a site that goes in circles is given up."""


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

    @property
    def lost(self) -> bool:
        """Whether it was lost on its way, and not refused: the site may still have it."""


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
        patience: seconds without a word after which the answer is asked for again.
        connected: since when the node had been connected when the last message was sent.
        furthest: how far the node has got in each stage of its work, and of the upload.
        connections: at which times the node has connected anew.
        losses: answers that were lost on their way.
    """

    node: int
    kind: str
    content: RecordDict
    ticket: str
    sent: float
    moved: float
    connected: str
    patience: float = PATIENCE_SECONDS
    furthest: dict[str, int] = field(default_factory=dict)
    connections: set[str] = field(default_factory=set)
    losses: int = 0


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
                del answer  # before the next one is there: it may be as large as the model
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
            self._saw(parcel, _UPLOAD, self._transport.pieces(message_id))

    def _read(self, parcel: _Parcel, reply: Reply) -> Answer | str:
        """The answer in a reply; where it is still to come, the type of the next message."""
        if reply.content is None:
            parcel.losses += reply.lost
            if reply.lost and parcel.losses <= _MOST_LOSSES:
                return COLLECT  # the site still has it
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
        self._saw(parcel, working.stage, working.done)
        return COLLECT

    def _saw(self, parcel: _Parcel, stage: str, done: int) -> None:
        """Note how far a node is; further than ever before counts as movement."""
        known = parcel.furthest.get(stage, -1 if stage != _UPLOAD else 0)
        if done > known and (stage in parcel.furthest or len(parcel.furthest) < _MOST_STAGES):
            parcel.furthest[stage] = done
            self._moved(parcel)

    def _moved(self, parcel: _Parcel) -> None:
        parcel.moved = max(parcel.moved, self._clock())

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
            anew = state.activated != parcel.connected
            if anew and len(parcel.connections) < _MOST_CONNECTIONS:
                parcel.connections.add(state.activated)
                self._moved(parcel)
            quiet = now - max(parcel.sent + _seconds_for(parcel.content), parcel.moved)
            if not anew and quiet < parcel.patience:
                continue
            if not anew:
                parcel.patience *= 2  # a slow line has the more time, the longer it takes
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
