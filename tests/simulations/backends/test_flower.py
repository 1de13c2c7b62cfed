"""The adapter refuses other versions of Flower, and copies what it passes on."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from wardround_shared.errors import BackendError
from wardround_simulations.backends import flower


@pytest.mark.parametrize("installed", ["1.40.0", "1.42.0", "1.410.0", "2.0.0"])
def test_an_untested_version_of_flower_is_refused(installed: str) -> None:
    with pytest.raises(BackendError, match=installed):
        flower.refuse_untested(installed)


def instruction(content: RecordDict) -> Message:
    return flower.new_message(
        content, run_id=3, message_type="train", dst_node_id=5, group_id="1", ttl=None
    )


def test_a_readdressed_message_shares_bytes_and_nothing_else() -> None:
    content = RecordDict(
        {"a": ArrayRecord({"x": Array(np.arange(3))}), "c": ConfigRecord({"round": 1})}
    )
    old = instruction(content)
    new = flower.readdressed(old, message_id="9", dst_node_id=6)
    assert (new.metadata.message_id, new.metadata.dst_node_id) == ("9", 6)
    assert (old.metadata.message_id, old.metadata.dst_node_id) == ("", 5)
    assert (new.metadata.run_id, new.metadata.ttl) == (3, old.metadata.ttl)
    new.content["c"]["round"] = 2
    del new.content["a"]["x"]
    assert content["c"]["round"] == 1
    assert "x" in content["a"]


def test_a_readdressed_error_stays_an_error() -> None:
    reply = Message(flower.app_raised("ValueError"), reply_to=instruction(RecordDict()))
    assert flower.readdressed(reply, run_id=4).error.reason == "ValueError"


def test_an_engine_without_nodes_is_not_waited_for_for_ever() -> None:
    class Empty:
        class state:  # noqa: N801
            nodes: dict[int, object] = {}  # noqa: RUF012

    grid: Grid = Empty()  # type: ignore[assignment]
    with pytest.raises(BackendError, match="did not register"):
        flower.engine_nodes(grid, 1, timeout=0.05)
