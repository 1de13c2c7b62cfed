"""A Flower app without any training: what a round of Flower itself takes."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:  # noqa: ARG001 - what Flower calls
    """Give the model back as it is."""
    metrics = MetricRecord({"num-examples": 1})
    content = RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
    return Message(content, reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:  # noqa: ARG001 - what Flower calls
    """Metrics of nothing."""
    metrics = MetricRecord({"num-examples": 1, "loss": 0.0})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds, and note when each has ended."""
    config = context.run_config
    ended: list[float] = []

    def note(server_round: int, arrays: ArrayRecord) -> MetricRecord:  # noqa: ARG001
        ended.append(time.time())
        return MetricRecord()

    sites = int(config["sites"])
    strategy = FedAvg(
        fraction_train=1.0,
        fraction_evaluate=1.0,
        min_train_nodes=sites,
        min_evaluate_nodes=sites,
        min_available_nodes=sites,
    )
    model = np.zeros(int(config["parameters"]), dtype=np.float32)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({"parameters": Array(model)}),
        num_rounds=int(config["rounds"]),
        evaluate_fn=note,
    )
    Path(str(config["seconds"])).write_text(json.dumps(ended), encoding="utf-8")
