"""A small federation for the tests of this folder: what workers have to import lies here."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from wardround_shared.errors import DataError, RunError
from wardround_simulations.backends import Node

PARAMETERS = 20_000  # 80 kB: large enough for shared memory


def nodes(count: int) -> list[Node]:
    return [Node(node_id=i, name=f"site-{i:03}") for i in range(1, count + 1)]


def server(main: Callable[[Grid, Context], None]) -> ServerApp:
    app = ServerApp()
    app.main()(main)
    return app


def messages(
    grid: Grid, *, model: Array | None = None, action: str = "train", number: int = 0
) -> list[Message]:
    """One message to every node; the model is the same object in all."""
    found = []
    for node_id in grid.get_node_ids():
        content = RecordDict({"settings": ConfigRecord({"round": number})})
        if model is not None:
            content["model"] = ArrayRecord({"model": model})
        found.append(grid.create_message(content, action, node_id, str(number)))
    return found


def values(replies: Iterable[Message], key: str) -> dict[int, float]:
    """Return one metric by node."""
    return {reply.metadata.src_node_id: reply.content["metrics"][key] for reply in replies}


class Training(ServerApp):
    """Averages the sites' models over rounds; `model` holds the result."""

    def __init__(self, rounds: int, parameters: int = PARAMETERS) -> None:
        super().__init__()
        self.model = np.zeros(parameters, np.float32)
        self.trained: list[dict[int, float]] = []
        self.seconds: list[float] = []
        self._rounds = rounds
        self.main()(self._train)

    def _train(self, grid: Grid, context: Context) -> None:
        for number in range(self._rounds):
            start = time.perf_counter()
            sent = messages(grid, model=Array(self.model), number=number)
            replies = sorted(grid.send_and_receive(sent), key=lambda r: r.metadata.src_node_id)
            total = sum(r.content["model"]["model"].numpy() for r in replies)
            self.model = (total / len(replies)).astype(np.float32)
            self.trained.append(values(replies, "trained"))
            self.seconds.append(time.perf_counter() - start)


def training_app(device: str) -> ClientApp:
    """A seeded step of torch, and a count of steps that is kept in the node's state."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = message.content["settings"]["round"]
        model = torch.from_numpy(message.content["model"]["model"].numpy()).to(device)
        seed = int(context.node_config["partition-id"]) * 1000 + number
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(64, 64, generator=generator)
        noise = torch.randn(model.shape, generator=generator)
        model = torch.tanh(model + noise * (matrix @ matrix).sum().sigmoid())
        state = context.state.get("steps", MetricRecord({"trained": 0}))
        state["trained"] += 1
        context.state["steps"] = state
        content = RecordDict(
            {
                "model": ArrayRecord({"model": Array(model.cpu().numpy())}),
                "metrics": MetricRecord({"trained": state["trained"], "pid": os.getpid()}),
            }
        )
        return Message(content, reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        """Answer who and where this is; the last site answers fastest."""
        time.sleep(0.2 if context.node_config["site"] == "site-001" else 0.0)
        facts = {
            "site": str(context.node_config["site"]),
            "node": context.node_id,
            "partition": int(context.node_config["partition-id"]),
            "run": context.run_id,
            "message-run": message.metadata.run_id,
            "device": device,
            "threads": torch.get_num_threads(),
            "pid": os.getpid(),
        }
        logging.getLogger("toy").warning("asked at %s", context.node_config["site"])
        return Message(RecordDict({"facts": ConfigRecord(facts)}), reply_to=message)

    return app


def failing_app(device: str) -> ClientApp:
    """Site 1 fails with a record in its text, site 2 with a path, site 3 is killed."""
    app = training_app(device)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        site = context.node_config["site"]
        if site == "site-001":
            raise ValueError("patient 4711 has no label")
        if site == "site-002":
            raise DataError("/wards/north/patient-4711: cannot be written; free some disk space.")
        if site == "site-003":
            os.kill(os.getpid(), signal.SIGKILL)
        return Message(
            RecordDict({"metrics": MetricRecord({"pid": os.getpid()})}), reply_to=message
        )

    @app.query("attempt")
    def attempt(message: Message, context: Context) -> Message:
        attempts = context.state.setdefault("attempts", MetricRecord({"number": 0}))
        attempts["number"] += 1
        raise RunError(f"Attempt {attempts['number']} failed.")

    return app


def sleeping_app(device: str) -> ClientApp:
    """Trains for a minute, holding a reply."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        time.sleep(60)
        return Message(message.content, reply_to=message)

    return app


def refusing_factory(device: str) -> ClientApp:
    raise DataError("There is no folder of data: name one with --data.")


def broken_factory(device: str) -> ClientApp:
    raise KeyError("patient 4711")


def dying_factory(device: str) -> ClientApp:
    os._exit(3)


def large_state_app(device: str) -> ClientApp:
    """Keeps the sum of all models it was sent, as an array in the node's state."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model = message.content["model"]["model"].numpy()
        if "sum" in context.state:
            model = model + context.state["sum"]["sum"].numpy()
        context.state["sum"] = ArrayRecord({"sum": Array(model)})
        metrics = MetricRecord({"sum": float(model[0])})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app
