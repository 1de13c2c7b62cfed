"""What crosses the wire comes back as it was, and nothing malformed gets through."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from wardround_shared.errors import ProtocolError
from wardround_shared.messages import (
    GlobalModel,
    Greeting,
    Header,
    Update,
    greeting_record,
    header_record,
    model_record,
    read_greeting,
    read_header,
    read_model,
    read_sums,
    read_update,
    sums_record,
    update_record,
)

HEADER = Header(study_id="ab", run="r", round=3)
MODEL = GlobalModel(
    parameters=np.arange(4, dtype=np.float32),
    fitted=({"mean": np.ones(2)}, {}, {"mean": np.zeros(2), "scale": np.ones(2)}),
    class_counts=np.array([3.0, 5.0]),
)


def test_a_model_comes_back_as_it_was():
    content = model_record(HEADER, MODEL)
    back = read_model(content)
    assert read_header(content) == HEADER
    np.testing.assert_array_equal(back.parameters, MODEL.parameters)
    assert [sorted(step) for step in back.fitted] == [["mean"], [], ["mean", "scale"]]
    np.testing.assert_array_equal(back.class_counts, MODEL.class_counts)


def test_a_request_holds_no_code_and_nothing_but_what_the_design_lists():
    content = model_record(HEADER, MODEL)
    assert set(content) == {"header", "model", "fitted", "recipe"}
    assert set(content["header"]) == {"protocol", "study-id", "run", "round"}
    assert set(content["model"]) == {"parameters", "class-counts"}


def test_a_greeting_comes_back_as_it_was():
    greeting = Greeting(site="north", software="1", shapes=((1, 28, 28), (4,)))
    assert read_greeting(greeting_record(greeting)) == greeting


@pytest.mark.parametrize("shapes", ["", "1,x", "1,-2", "0", "1;;2", "1,99999999999"])
def test_shapes_that_are_none_are_refused(shapes):
    content = greeting_record(Greeting(site="a", software="1", shapes=((1,),)))
    content["greeting"]["shapes"] = shapes
    with pytest.raises(ProtocolError, match="shapes"):
        read_greeting(content)


def test_another_protocol_version_is_refused_in_words():
    content = header_record(HEADER)
    content["header"]["protocol"] = 99
    with pytest.raises(ProtocolError, match="version 99"):
        read_header(content)
    answer = greeting_record(Greeting(site="a", software="1", shapes=((1,),)))
    answer["greeting"]["protocol"] = 99
    with pytest.raises(ProtocolError, match="Site a speaks protocol version 99"):
        read_greeting(answer)


def _update(delta=None, weight=None, counts=None) -> RecordDict:
    return RecordDict(
        {
            "update": ArrayRecord(
                {
                    "delta": Array(np.zeros(3, np.float32) if delta is None else delta),
                    "weight": Array(np.array([2.0]) if weight is None else weight),
                    "counts": Array(np.zeros(5) if counts is None else counts),
                }
            )
        }
    )


def test_an_update_comes_back_as_it_was():
    update = Update(delta=np.ones(3, np.float32), weight=2.0, counts=np.arange(5.0))
    back = read_update(update_record(update))
    np.testing.assert_array_equal(back.delta, update.delta)
    np.testing.assert_array_equal(back.counts, update.counts)
    assert back.weight == 2.0


@pytest.mark.parametrize(
    "content",
    [
        _update(delta=np.array([1, np.nan, 2], np.float32)),
        _update(delta=np.array([1, np.inf, 2], np.float32)),
        _update(delta=np.zeros(3)),
        _update(delta=np.zeros((3, 1), np.float32)),
        _update(weight=np.array([-1.0])),
        _update(weight=np.array([1.0, 2.0])),
        _update(counts=np.array([np.nan])),
        _update(counts=np.zeros(5, np.int64)),
        RecordDict(),
        RecordDict({"update": ConfigRecord({})}),
        RecordDict({"update": ArrayRecord({})}),
        RecordDict(
            {
                "update": ArrayRecord(
                    {"delta": Array("float32", (3,), "numpy.ndarray", b"not an array")}
                )
            }
        ),
    ],
)
def test_a_malformed_update_is_refused(content):
    with pytest.raises(ProtocolError):
        read_update(content)


def test_sums_must_be_finite():
    np.testing.assert_array_equal(read_sums(sums_record(np.arange(3.0))), np.arange(3.0))
    with pytest.raises(ProtocolError, match="not finite"):
        read_sums(sums_record(np.array([np.inf])))
