"""How the worker of a site takes requests from its SuperNode and hands answers back."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from wardround_shared.flower import Token, require_tested_flwr

require_tested_flwr()

import httpx  # noqa: E402
from flwr.app import (  # noqa: E402
    DEFAULT_TTL,
    Context,
    Error,
    Message,
    Metadata,
    RecordDict,
)
from flwr.app.message import make_message  # noqa: E402
from flwr.common.constant import ErrorCode, SubStatus  # noqa: E402
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest  # noqa: E402
from flwr.supercore.constant import TASK_TOKEN_HEADER, TaskType  # noqa: E402
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor  # noqa: E402
from flwr.supercore.runtime import RuntimeHttpClient  # noqa: E402
from flwr.supernode.runtime.run_clientapp import (  # noqa: E402
    pull_task_input,
    push_message,
    push_task_output,
)

_HEARTBEAT_SECONDS = 8.0
"""A task is taken for dead after half a minute."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One request of the server. The bundle that came with its run is left where it is."""

    message: Message
    context: Context


def request_of(kind: str, content: RecordDict) -> tuple[Message, Context]:
    """What a `ClientApp` is called with, for a request of that type; no node is needed."""
    metadata = Metadata(
        run_id=0,
        message_id="request",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id="",
        group_id="",
        created_at=time.time(),
        ttl=DEFAULT_TTL,
        message_type=kind,
    )
    context = Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config={})
    return make_message(metadata, content=content), context


class _TaskToken:
    """Interceptor: the token of the task in hand."""

    token = ""

    def intercept(self, context: Any, call_next: Any) -> httpx.Response:
        """Add the header."""
        if self.token:
            context.request.headers[TASK_TOKEN_HEADER] = self.token
        response: httpx.Response = call_next(context)
        return response


class Tasks:
    """The requests that wait at the SuperNode's local API."""

    def __init__(self, *, port: int, token: str) -> None:
        self._task = _TaskToken()
        self._client = RuntimeHttpClient.from_server_address(
            f"127.0.0.1:{port}",
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
                self._task,
                Token(token),
            ],
        )
        threading.Thread(target=self._keep_alive, daemon=True, name="heartbeat").start()

    def take(self) -> Task | None:
        """The oldest request that waits, if there is one."""
        self._task.token = ""
        request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        answer = self._client.AcquireTask(request)
        if not answer.token:
            return None
        self._task.token = answer.token
        message, context, _run, _bundle = pull_task_input(self._client)
        return Task(message=message, context=context)

    def answer(self, task: Task, content: RecordDict) -> None:
        """Hand the answer to the request that was taken last to the SuperNode."""
        self._finish(task, Message(content, reply_to=task.message), SubStatus.COMPLETED)

    def refuse(self, task: Task, reason: str) -> None:
        """Answer with the reason why there is no answer; it may leave the site."""
        error = Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason)
        self._finish(task, Message(error, reply_to=task.message), SubStatus.FAILED, reason)

    def _finish(self, task: Task, reply: Message, status: str, details: str = "") -> None:
        push_message(self._client, reply, task.context)
        push_task_output(self._client, None, status, details)
        self._task.token = ""

    def _keep_alive(self) -> None:
        """Tell the SuperNode that the task in hand is alive; a large model takes its time."""
        while True:
            time.sleep(_HEARTBEAT_SECONDS)
            if self._task.token:
                with suppress(httpx.HTTPError):  # it is over, or the SuperNode is
                    self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
