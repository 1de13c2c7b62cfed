"""A network in memory, with a clock that only a test moves: messages are lost, nodes restart.

A node does what a site's tickets do: it answers a request soon or says how far it is, keeps answers
over a restart, and knows nothing of the work that a restart has interrupted.
"""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from wardround_shared.delivery import (
    COLLECT,
    Working,
    carried,
    opened,
    unknown_record,
    working_record,
)

HOLD = 8.0


@dataclass
class Reply:
    """What `Delivery` is told of a whole answer."""

    message_id: str
    content: RecordDict | None
    failure: str = ""
    lost: bool = False


@dataclass
class _Upload:
    begins: float
    ends: float
    pieces: int
    reply: Reply


@dataclass
class Node:
    """One site behind the network.

    Attributes:
        work: seconds that each request takes.
        moves: whether what it says of its work changes.
        uploading: seconds and pieces of each answer's upload.
        answers: content of the answer to (type, content of the request).
        refuses: the reason for which it answers nothing else.
        garbles: what it puts in the place of what it would send.
        loses: so many of its replies break off on their way, and the server sees it.
    """

    id: int
    work: float = 0.0
    moves: bool = True
    uploading: tuple[float, int] = (0.0, 1)
    answers: Callable[[str, RecordDict], RecordDict] = lambda kind, _: said(kind)
    refuses: str = ""
    garbles: Callable[[RecordDict], RecordDict | None] = lambda content: content
    loses: int = 0
    online: bool = True
    activated: str = "1"
    outbox: dict[str, RecordDict] = field(default_factory=dict)
    jobs: dict[str, tuple[float, str, RecordDict]] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    uploads: dict[tuple[str, str], float] = field(default_factory=dict)

    def restart(self) -> None:
        self.jobs.clear()
        self.activated = str(int(self.activated) + 1)


def said(kind: str) -> RecordDict:
    return RecordDict({"said": ConfigRecord({"to": kind})})


class Network:
    """`Transport` in memory.

    Attributes:
        now: seconds.
        latency: seconds that a reply is under way, and a request if nothing else is said of it.
        requests_take: seconds that a request is under way.
        lost: asked of each message and each reply, in the order of sending, whether it is lost.
    """

    def __init__(
        self, *nodes: Node, latency: float = 0.1, requests_take: float | None = None
    ) -> None:
        self.now = 0.0
        self.known = {node.id: node for node in nodes}
        self.latency = latency
        self.requests_take = requests_take
        self.lost: Callable[[str, int], bool] = lambda _what, _number: False
        self.sent: list[tuple[int, str]] = []
        self.forgotten: set[str] = set()
        self._ids = map("message-{}".format, itertools.count(1))
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._uploads: dict[str, _Upload] = {}
        self._counted = {"request": 0, "reply": 0}

    # --- the clock ---------------------------------------------------------------------------

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = end

    def at(self, moment: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), event))

    # --- Transport ---------------------------------------------------------------------------

    def nodes(self) -> dict[int, Any]:
        return {n: Seen(node.online, node.activated) for n, node in self.known.items()}

    def send(self, requests, *, group, ttl) -> list[str]:
        ids = []
        for node, kind, content in requests:
            message_id = next(self._ids)
            self.sent.append((node, kind))
            ids.append(message_id)
            if not self._is_lost("request") and node in self.known:
                self._deliver(self.known[node], message_id, kind, content)
        return ids

    def replies(self, message_ids) -> list[Reply]:
        done = [m for m in message_ids if m in self._uploads and self._uploads[m].ends <= self.now]
        return [self._uploads.pop(one).reply for one in done]

    def pieces(self, message_id: str) -> int:
        upload = self._uploads.get(message_id)
        if upload is None or upload.ends <= upload.begins:
            return 0
        share = (self.now - upload.begins) / (upload.ends - upload.begins)
        return int(min(max(share, 0.0), 1.0) * upload.pieces)

    def forget(self, message_id: str) -> None:
        self.forgotten.add(message_id)
        self._uploads.pop(message_id, None)

    # --- parts -------------------------------------------------------------------------------

    def _is_lost(self, what: str) -> bool:
        self._counted[what] += 1
        return self.lost(what, self._counted[what])

    def _deliver(self, node: Node, message_id: str, kind: str, content: RecordDict) -> None:
        connected = node.activated

        def arrive() -> None:
            if not node.online:  # it waits at the server
                self.at(self.now + 1.0, arrive)
            elif node.activated == connected:  # what was on its way is lost with a connection
                self._arrived(node, message_id, kind, content)

        seconds = self.latency if self.requests_take is None else self.requests_take
        self.at(self.now + seconds, arrive)

    def _arrived(self, node: Node, message_id: str, kind: str, content: RecordDict) -> None:
        node.heard.append(kind)
        if node.refuses:
            self._reply(node, message_id, None, failure=node.refuses)
            return
        ticket, inner = opened(content)
        if ticket in node.outbox:
            self._reply(node, message_id, node.outbox[ticket], ticket)
            return
        if ticket not in node.jobs:
            if kind == COLLECT:
                self._reply(node, message_id, unknown_record(), ticket)
                return
            node.jobs[ticket] = (self.now, kind, inner)
            node.begun.append(ticket)
        began = node.jobs[ticket][0]
        connected, ends = node.activated, began + node.work

        def answer() -> None:
            if node.activated != connected:
                return
            if self.now >= ends:
                _, asked, request = node.jobs[ticket]
                node.outbox.setdefault(ticket, node.answers(asked, request))
                self._reply(node, message_id, node.outbox[ticket], ticket)
            else:
                self._reply(node, message_id, self._how_far(node, ticket), ticket)

        self.at(min(self.now + HOLD, max(ends, self.now)), answer)

    def _how_far(self, node: Node, ticket: str) -> RecordDict:
        done = int(1000 * (self.now - node.jobs[ticket][0]) / node.work) if node.moves else 0
        return working_record(Working(stage="training", done=done, total=1000))

    def _reply(
        self, node: Node, message_id: str, content: RecordDict | None, ticket="", failure=""
    ) -> None:
        if self._is_lost("reply") or message_id in self.forgotten:
            return
        lost = content is not None and node.loses > 0
        if lost:
            node.loses -= 1
            content, failure = None, "the upload was broken off"
        elif content is not None:
            content = node.garbles(carried(content, ticket))
        seconds, pieces, begins = 0.0, 1, self.now + self.latency
        if content is not None and ticket in node.outbox:
            seconds, pieces = node.uploading
            # Pieces go by their content: those that have come are not sent for a second message.
            begins = node.uploads.setdefault((ticket, node.activated), begins)
        self._uploads[message_id] = _Upload(
            begins=begins,
            ends=begins + seconds,
            pieces=pieces,
            reply=Reply(message_id=message_id, content=content, failure=failure, lost=lost),
        )


@dataclass(frozen=True)
class Seen:
    """A node as it was when it was looked at."""

    online: bool
    activated: str
