"""The way of messages between a run's coordinator and Flower's SuperLink.

An answer is taken piece by piece while the site still uploads it, so that whoever waits sees that
something moves.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import httpx

from wardround_server.flower.control import Door, NodeState, runtime_client
from wardround_shared.flower import require_tested_flwr
from wardround_shared.packing import data_size

require_tested_flwr()

from flwr.app import Array, ArrayRecord, Message, RecordDict  # noqa: E402
from flwr.app.message import make_message, remove_content_from_message  # noqa: E402
from flwr.app.message.arraychunk import ArrayChunk  # noqa: E402
from flwr.app.metadata import Metadata  # noqa: E402
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode  # noqa: E402
from flwr.common.serde import message_to_proto, run_from_proto  # noqa: E402
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree  # noqa: E402
from flwr.proto.runtime_pb2 import (  # noqa: E402
    GetNodesRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushAppMessagesRequest,
)
from flwr.supercore.constant import NodeStatus  # noqa: E402
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http  # noqa: E402
from flwr.supercore.inflatable.inflatable_object import (  # noqa: E402
    InflatableObject,
    get_all_nested_objects,
    get_object_body,
    get_object_head_values_from_object_content,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (  # noqa: E402
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (  # noqa: E402
    ObjectPullError,
    ObjectUnavailableError,
    inflatable_class_registry,
)
from flwr.supercore.retry import make_simple_http_retry_invoker  # noqa: E402
from flwr.superlink.grid.http_grid import HttpGrid  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A whole answer to one message: content, or why there is none.

    Attributes:
        lost: whether it was lost on its way, and not refused by the site.
    """

    message_id: str
    node_id: int
    content: RecordDict | None
    failure: str = ""
    lost: bool = False


_DECENT_BYTES = 64 * 1024 * 1024
"""An answer may have so many bytes, or twice those of the largest request, if that is more."""

_SMALL = 8
"""Pieces of a reply that is kept as it comes."""


@dataclass(kw_only=True)
class _Arriving:
    """A reply that is being uploaded; its pieces lie at the SuperLink, on disk.

    Attributes:
        tree: what it is made of.
        pieces: ids of its objects, in the order of the upload.
        there: how many of them are known to have come.
        contents: of a small reply, what has come.
    """

    tree: ObjectTree
    pieces: list[str]
    there: int = 0
    contents: dict[str, bytes] = field(default_factory=dict)


class _TaskGrid(HttpGrid):
    """Flower's grid, over our door."""

    def __init__(self, door: Door, token: str) -> None:
        super().__init__(door.address, insecure=True, token=token)
        # Shorter waits than Flower's own; it goes on through a restart of the SuperLink.
        self._retry_invoker = make_simple_http_retry_invoker()
        self._client = runtime_client(door, token, retry=self._retry_invoker)


class RunGrid:
    """One Flower run: sends messages to its nodes and takes their replies."""

    def __init__(self, door: Door, token: str) -> None:
        """Take up the task that `token` stands for."""
        self._grid = _TaskGrid(door, token)
        self._runtime = self._grid._runtime_client  # noqa: SLF001 - this is the adapter
        self._arriving: dict[str, _Arriving] = {}
        self._largest = _DECENT_BYTES
        self._taken = 0
        self._heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(self._runtime))
        self._heartbeat.start()
        run = run_from_proto(self._runtime.PullTaskInput(PullTaskInputRequest()).run)
        self._grid.set_run(run)
        self.run_id: int = run.run_id

    def close(self) -> None:
        """Stop the heartbeat and hang up."""
        if self._heartbeat.is_running:
            self._heartbeat.stop()
        self._grid.close()

    def nodes(self) -> Mapping[int, NodeState]:
        """Nodes of the run by id."""
        return {
            node.node_id: NodeState(
                node_id=node.node_id,
                public_key=bytes(node.public_key),
                online=node.status == NodeStatus.ONLINE,
                activated=node.last_activated_at,
            )
            for node in self._runtime.GetNodes(GetNodesRequest()).nodes
        }

    def send(
        self, requests: Sequence[tuple[int, str, RecordDict]], *, group: str, ttl: float
    ) -> list[str]:
        """Send (node, type, content) each; returns the ids of the messages.

        Arrays that several contents share are uploaded once.
        """
        sent = max((data_size(content) for _, _, content in requests), default=0)
        self._largest = max(self._largest, 2 * sent)
        messages = [
            _message(self.run_id, node, kind, content, group=group, ttl=ttl)
            for node, kind, content in requests
        ]
        with no_object_id_recompute():
            for message in messages:
                message.metadata.__dict__["_message_id"] = message.object_id
            answer = self._runtime.PushMessages(
                PushAppMessagesRequest(
                    messages_list=[
                        message_to_proto(remove_content_from_message(message))
                        for message in messages
                    ],
                    message_object_trees=[get_object_tree(message) for message in messages],
                )
            )
            self._upload(messages, answer.session_id, set(answer.objects_to_push))
        return list(answer.message_ids)

    def _upload(self, messages: Sequence[Message], session: str, wanted: set[str]) -> None:
        """Upload the objects that are wanted, piece by piece: a copy of one at a time."""
        push = make_push_object_fn_protobuf(
            self._runtime.PushObject, self._grid.node, self.run_id, session
        )
        for message in messages:
            for name, part in get_all_nested_objects(message).items():
                if name in wanted:
                    wanted.remove(name)
                    push(name, part.deflate())

    def replies(self, message_ids: Iterable[str]) -> Iterator[Reply]:
        """Whole replies to these messages that have come since the last call.

        One after the other: of large ones no two are in memory.
        """
        # What is arriving has left the SuperLink's list, and asking for it again is an error.
        waiting = [one for one in message_ids if one not in self._arriving]
        answer = self._runtime.PullMessages(PullAppMessagesRequest(message_ids=waiting))
        for message, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            self._arriving[message.metadata.reply_to_message_id] = _Arriving(
                tree=tree, pieces=[one.object_id for one in iterate_object_tree(tree)]
            )
        for reply_to, arriving in list(self._arriving.items()):
            try:
                if not self._look(arriving):
                    continue
                del self._arriving[reply_to]
                yield self._whole(reply_to, arriving)
            except ObjectPullError:
                self._arriving.pop(reply_to, None)
                failure = "the upload was broken off"
                yield Reply(
                    message_id=reply_to, node_id=0, content=None, failure=failure, lost=True
                )
            except httpx.HTTPError:
                raise
            except Exception:  # noqa: BLE001 - a site can send anything
                # That must not end the run of the others.
                failure = "the answer is malformed"
                yield Reply(message_id=reply_to, node_id=0, content=None, failure=failure)

    def pieces(self, message_id: str) -> int:
        """Pieces that have arrived of the reply to a message: rises while it is uploaded."""
        arriving = self._arriving.get(message_id)
        return 0 if arriving is None else arriving.there

    def forget(self, message_id: str) -> None:
        """Take no reply to this message any more."""
        self._arriving.pop(message_id, None)

    def _look(self, arriving: _Arriving) -> bool:
        """Whether all pieces have come; counts those that have."""
        small = len(arriving.pieces) <= _SMALL
        try:
            while arriving.there < len(arriving.pieces):
                piece = arriving.pieces[arriving.there]
                content = self._pull(piece)
                if small:
                    arriving.contents[piece] = content
                arriving.there += 1
        except ObjectUnavailableError:
            return False
        return True

    def _whole(self, reply_to: str, arriving: _Arriving) -> Reply:
        root = arriving.tree.object_id
        self._taken = 0
        message = self._inflated(root, arriving.contents)
        self._runtime.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._grid.node, run_id=self.run_id, message_object_id=root
            )
        )
        if not isinstance(message, Message):
            raise TypeError(type(message).__name__)
        failed = message.has_error()
        refused = failed and message.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        return Reply(
            message_id=reply_to,
            node_id=message.metadata.src_node_id,
            content=None if failed else message.content,
            failure=(message.error.reason or f"error {message.error.code}") if failed else "",
            lost=failed and not refused,
        )

    def _inflated(self, name: str, known: Mapping[str, bytes]) -> InflatableObject:
        """An object with all that is in it; of a large array one piece at a time is pulled."""
        content = self._content(name, known)
        kind, children, _ = get_object_head_values_from_object_content(content)
        if kind == Array.__qualname__:
            return self._array(content, children, known)
        parts = {child: self._inflated(child, known) for child in children}
        if kind == ArrayRecord.__qualname__:
            record = ArrayRecord()  # which copies what it is made with
            for key, child in json.loads(get_object_body(content, ArrayRecord)).items():
                record[key] = cast("Array", parts[child])
            return record
        return inflatable_class_registry[kind].inflate(content, parts)

    def _array(self, content: bytes, children: Sequence[str], known: Mapping[str, bytes]) -> Array:
        """As `Array.inflate`, which would hold the data three times."""
        about = json.loads(get_object_body(content, Array))
        array = Array(about["dtype"], tuple(about["shape"]), about["stype"], b"")
        data = bytearray()
        for place in about["arraychunk_ids"]:
            data += get_object_body(self._content(children[place], known), ArrayChunk)
        array.__dict__["data"] = data
        return array

    def _content(self, name: str, known: Mapping[str, bytes]) -> bytes:
        """An object of the reply in hand; counted, so that they are not without end."""
        content = known.get(name) or self._pull(name)
        self._taken += len(content)
        if self._taken > self._largest:
            msg = "an answer that is far larger than any request"
            raise ValueError(msg)
        return content

    def _pull(self, piece: str) -> bytes:
        pull = make_pull_object_fn_protobuf(self._runtime.PullObject, self._grid.node, self.run_id)
        return pull(piece)


def _message(
    run_id: int, node: int, kind: str, content: RecordDict, *, group: str, ttl: float
) -> Message:
    metadata = Metadata(
        run_id=run_id,
        message_id="",
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=node,
        reply_to_message_id="",
        group_id=group,
        created_at=time.time(),
        ttl=ttl,
        message_type=kind,
    )
    return make_message(metadata, content=content)
