"""What holds for every backend; Ray has a file of its own."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from toy_federation import (
    Training,
    failing_app,
    large_state_app,
    messages,
    nodes,
    refusing_factory,
    server,
    training_app,
    values,
)

from wardround_shared.errors import DataError
from wardround_simulations.backends import BackendName, Node, run

LOCAL: list[BackendName] = ["inline", "process"]


def start(backend: BackendName, app: ServerApp, factory=training_app, count: int = 3) -> None:
    run(
        backend,
        server_app=app,
        client_factory=factory,
        nodes=nodes(count),
        run_id=7,
        workers=2,
        device="cpu",
    )


def test_inline_and_process_train_the_same_model_to_the_last_bit() -> None:
    inline, process = Training(3), Training(3)
    start("inline", inline, count=5)
    start("process", process, count=5)
    assert np.any(inline.model != 0)
    np.testing.assert_array_equal(inline.model, process.model)


@pytest.mark.parametrize("backend", LOCAL)
def test_state_persists_per_node(backend: BackendName) -> None:
    app = Training(3)
    start(backend, app)
    assert app.trained == [dict.fromkeys((1, 2, 3), number) for number in (1, 2, 3)]


@pytest.mark.parametrize("backend", LOCAL)
def test_a_large_array_in_the_state_persists(backend: BackendName) -> None:
    sums: list[dict[int, float]] = []

    def main(grid: Grid, context: Context) -> None:
        for number in (1, 2, 3):
            model = Array(np.full(50_000, float(number)))
            sums.append(values(grid.send_and_receive(messages(grid, model=model)), "sum"))

    start(backend, server(main), large_state_app)
    assert sums == [dict.fromkeys((1, 2, 3), value) for value in (1.0, 3.0, 6.0)]


@pytest.mark.parametrize("backend", LOCAL)
def test_a_client_app_knows_which_node_it_is_and_runs_on_one_thread(backend: BackendName) -> None:
    facts: dict[int, ConfigRecord] = {}

    def main(grid: Grid, context: Context) -> None:
        assert (context.run_id, grid.run.run_id) == (7, 7)
        for reply in grid.send_and_receive(messages(grid, action="query")):
            facts[reply.metadata.src_node_id] = reply.content["facts"]

    start(backend, server(main))
    assert sorted(facts) == [1, 2, 3]
    for node_id, fact in facts.items():
        expected = {
            "site": f"site-{node_id:03}",
            "node": node_id,
            "partition": node_id - 1,
            "run": 7,
            "message-run": 7,
            "device": "cpu",
            "threads": 1,
        }
        assert {key: fact[key] for key in expected} == expected


def test_torch_has_its_threads_back_after_a_run() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(DataError):
            start("inline", Training(1), refusing_factory)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", LOCAL)
def test_an_error_reply_says_no_more_than_it_may(backend: BackendName, caplog) -> None:
    errors: dict[int, str | None] = {}
    codes: set[int] = set()

    def main(grid: Grid, context: Context) -> None:
        sent = messages(grid, action="evaluate")
        for reply in grid.send_and_receive(sent[:2]):
            errors[reply.metadata.src_node_id] = reply.error.reason
            codes.add(reply.error.code)

    start(backend, server(main), failing_app)
    assert errors == {1: "ValueError", 2: "DataError"}
    assert codes == {2}, "flwr's code for a client app that raised"
    assert "patient 4711" in caplog.text, "the site's own log has it all"
    assert "/wards/north/patient-4711: cannot be written" in caplog.text


@pytest.mark.parametrize("backend", LOCAL)
def test_state_is_kept_as_the_client_app_left_it_when_it_raised(backend: BackendName) -> None:
    reasons: list[str | None] = []

    def main(grid: Grid, context: Context) -> None:
        for _ in range(2):
            sent = grid.create_message(RecordDict(), "query.attempt", 1, "")
            reasons.extend(reply.error.reason for reply in grid.send_and_receive([sent]))

    start(backend, server(main), failing_app)
    assert reasons == ["Attempt 1 failed.", "Attempt 2 failed."]


@pytest.mark.parametrize("backend", LOCAL)
def test_what_a_factory_refuses_ends_the_run_as_it_is(backend: BackendName) -> None:
    with pytest.raises(DataError, match="There is no folder of data"):
        start(backend, Training(1), refusing_factory)


@pytest.mark.parametrize("backend", LOCAL)
def test_what_a_server_app_raises_surfaces_as_itself(backend: BackendName) -> None:
    def main(grid: Grid, context: Context) -> None:
        grid.push_messages(messages(grid, action="query"))
        raise LookupError("no such study")

    with pytest.raises(LookupError, match="no such study"):
        start(backend, server(main))


@pytest.mark.parametrize("backend", LOCAL)
def test_a_message_to_nobody_is_refused(backend: BackendName) -> None:
    def main(grid: Grid, context: Context) -> None:
        grid.push_messages([grid.create_message(RecordDict(), "train", 99, "")])

    with pytest.raises(ValueError, match="no node 99"):
        start(backend, server(main))


@pytest.mark.parametrize("backend", LOCAL)
def test_the_plain_message_constructor_works_in_a_server_app(backend: BackendName) -> None:
    def main(grid: Grid, context: Context) -> None:
        message = Message(RecordDict(), 2, "query")
        (reply,) = grid.send_and_receive([message])
        assert reply.content["facts"]["site"] == "site-002"

    start(backend, server(main))


@pytest.mark.parametrize("backend", LOCAL)
def test_send_and_receive_gives_up_in_time(backend: BackendName) -> None:
    def main(grid: Grid, context: Context) -> None:
        assert grid.send_and_receive(messages(grid, action="query"), timeout=0.0) == []

    start(backend, server(main))


def test_inline_answers_one_message_a_pull() -> None:
    def main(grid: Grid, context: Context) -> None:
        ids = list(grid.push_messages(messages(grid, action="query")))
        replies = [list(grid.pull_messages(ids)) for _ in range(4)]
        assert [len(found) for found in replies] == [1, 1, 1, 0]

    start("inline", server(main))


def overwriting_app(device: str) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        message.content["settings"]["round"] += 1
        message.content["model"]["model"] = Array(np.ones(1))
        return Message(message.content, reply_to=message)

    return app


def test_what_an_inline_site_does_to_its_message_no_other_sees() -> None:
    content = RecordDict(
        {
            "settings": ConfigRecord({"round": 0}),
            "model": ArrayRecord({"model": Array(np.zeros(1))}),
        }
    )

    def main(grid: Grid, context: Context) -> None:
        sent = [grid.create_message(content, "train", node, "") for node in grid.get_node_ids()]
        rounds = [reply.content["settings"]["round"] for reply in grid.send_and_receive(sent)]
        assert rounds == [1, 1, 1]
        assert content["model"]["model"].numpy()[0] == 0

    start("inline", server(main), overwriting_app)


def test_nodes_are_numbered_from_one() -> None:
    with pytest.raises(ValueError, match="numbered"):
        run(
            "inline",
            server_app=Training(1),
            client_factory=training_app,
            nodes=[Node(node_id=0, name="north")],
            run_id=1,
            workers=1,
            device="cpu",
        )
