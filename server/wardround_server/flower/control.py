"""Operating Flower's SuperLink over its local door: nodes, runs, and the one task of a run."""

import io
import zipfile
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import tomli_w

from wardround_shared.flower import Token, require_tested_flwr

require_tested_flwr()

from flwr.proto.control_pb2 import (  # noqa: E402
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab  # noqa: E402
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PushTaskOutputRequest  # noqa: E402
from flwr.supercore.constant import NodeStatus, TaskType  # noqa: E402
from flwr.supercore.control import ControlHttpClient  # noqa: E402
from flwr.supercore.interceptors import (  # noqa: E402
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker  # noqa: E402
from flwr.supercore.runtime import RuntimeHttpClient  # noqa: E402

_APP = {
    "project": {"name": "wardround-run", "version": "1.0.0", "license": "Apache-2.0"},
    "tool": {
        "flwr": {
            "app": {
                "publisher": "wardround",
                # Named since Flower asks for them; no code comes with the app, and both sides run
                # what is installed.
                "components": {
                    "serverapp": "wardround_server.app:app",
                    "clientapp": "wardround_client.app:app",
                },
            }
        }
    },
}


@dataclass(frozen=True, kw_only=True)
class Door:
    """The SuperLink's local door: a port of 127.0.0.1, and the token that opens it."""

    port: int
    token: str

    @property
    def address(self) -> str:
        """For Flower's clients."""
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True, kw_only=True)
class NodeState:
    """A registered node.

    Attributes:
        online: whether its heartbeat is fresh.
        activated: when it last connected, as text; another text means another process.
    """

    node_id: int
    public_key: bytes
    online: bool
    activated: str


class Operator:
    """Registers nodes and starts runs."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._control = ControlHttpClient.from_server_address(
            door.address,
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr"), Token(door.token)],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._control.close()

    def nodes(self) -> tuple[NodeState, ...]:
        """All registered nodes."""
        found = self._control.ListNodes(ListNodesRequest()).nodes_info
        return tuple(
            NodeState(
                node_id=node.node_id,
                public_key=bytes(node.public_key),
                online=node.status == NodeStatus.ONLINE,
                activated=node.last_activated_at,
            )
            for node in found
            if node.status != NodeStatus.UNREGISTERED
        )

    def register(self, key: bytes) -> int:
        """Let the node with this public key (PEM) connect; returns its id."""
        return int(self._control.RegisterNode(RegisterNodeRequest(public_key=key)).node_id)

    def unregister(self, node_id: int) -> None:
        """Shut a node out; what it sends from now on is refused."""
        self._control.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def start_run(self) -> int:
        """Start a Flower run with the app that brings no code; returns its id."""
        request = StartRunRequest(fab=Fab(content=_bundle()))
        return int(self._control.StartRun(request).run_id)

    def stop_run(self, run_id: int) -> None:
        """End a run: sites forget its messages."""
        self._control.StopRun(StopRunRequest(run_id=run_id))

    def acquire(self) -> tuple[int, str] | None:
        """Take the oldest waiting server task: its run, and the token to work with."""
        with self._runtime() as client:
            request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
            answer = client.AcquireTask(request)
        return (answer.task.run_id, answer.token) if answer.token else None

    def finish(self, token: str, *, status: str, details: str = "") -> None:
        """Report the end of a task: `completed`, `failed` or `stopped`."""
        with self._runtime(token) as client:
            client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=details))

    def _runtime(self, token: str = "") -> "RuntimeClient":
        return RuntimeClient(runtime_client(self._door, token))


class RuntimeClient:
    """A runtime client as a context."""

    def __init__(self, client: RuntimeHttpClient) -> None:
        self._client = client

    def __enter__(self) -> RuntimeHttpClient:
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()


def runtime_client(
    door: Door, token: str, *, retry: RetryInvoker | None = None
) -> RuntimeHttpClient:
    """A client of the Runtime API; `token` is that of a task, or nothing."""
    task = [RuntimeTokenHttpInterceptor(token)] if token else []
    return RuntimeHttpClient.from_server_address(
        door.address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
            *task,
            Token(door.token),
        ],
        retry_invoker=retry,
    )


def _bundle() -> bytes:
    """A Flower app bundle with nothing in it but its description."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        # A fixed time, so that all runs have the same bundle.
        entry = zipfile.ZipInfo("pyproject.toml", date_time=(2020, 1, 1, 0, 0, 0))
        bundle.writestr(entry, tomli_w.dumps(_APP))
    return buffer.getvalue()
