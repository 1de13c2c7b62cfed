"""What crosses the wire comes back as it was, and nothing malformed gets through."""

import dataclasses

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from wardround_shared.arrays import to_message
from wardround_shared.errors import ProtocolError
from wardround_shared.messages import (
    EVALUATE,
    MAX_FITTED_STEPS,
    TRAIN,
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
    request_digest,
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


# --- one digest, one request --------------------------------------------------------------------


def changed(**fields):
    return dataclasses.replace(MODEL, **fields)


def fitted(*steps):
    return changed(fitted=steps)


ONES, TWOS = np.ones(2), np.full(2, 2.0)

OTHERS = {
    "message type": (EVALUATE, HEADER, MODEL),
    "study": (TRAIN, Header(study_id="ac", run="r", round=3), MODEL),
    "run": (TRAIN, Header(study_id="ab", run="s", round=3), MODEL),
    "where study ends and run begins": (TRAIN, Header(study_id="a", run="br", round=3), MODEL),
    "round": (TRAIN, Header(study_id="ab", run="r", round=4), MODEL),
    "one parameter": (TRAIN, HEADER, changed(parameters=np.array([0, 1, 2, 4], np.float32))),
    "number of parameters": (TRAIN, HEADER, changed(parameters=np.arange(5, dtype=np.float32))),
    "class counts": (TRAIN, HEADER, changed(class_counts=np.array([3.0, 6.0]))),
    "no fitted steps": (TRAIN, HEADER, fitted()),
    "a fitted value": (TRAIN, HEADER, fitted({"mean": TWOS}, *MODEL.fitted[1:])),
    "a fitted name": (TRAIN, HEADER, fitted({"mear": ONES}, *MODEL.fitted[1:])),
    "a fitted step": (TRAIN, HEADER, fitted({}, {"mean": ONES}, MODEL.fitted[2])),
    "one step more": (TRAIN, HEADER, fitted(*MODEL.fitted, {})),
    "a shape": (TRAIN, HEADER, fitted({"mean": ONES[None]}, *MODEL.fitted[1:])),
    "a type": (TRAIN, HEADER, fitted({"mean": ONES.view(np.int64)}, *MODEL.fitted[1:])),
    "two constants exchanged": (
        TRAIN,
        HEADER,
        fitted(*MODEL.fitted[:2], {"mean": np.ones(2), "scale": np.zeros(2)}),
    ),
}


WITH_CONTROL = dataclasses.replace(
    MODEL, control=np.arange(3, dtype=np.float32), counted={"a": 1, "b": 2}
)
OTHERS |= {
    "a control variate": (
        TRAIN,
        HEADER,
        dataclasses.replace(MODEL, control=np.zeros(3, np.float32)),
    ),
    "one that counts": (TRAIN, HEADER, WITH_CONTROL),
}


def test_a_control_variate_comes_back_as_it_was():
    received = read_model(model_record(HEADER, WITH_CONTROL))
    np.testing.assert_array_equal(received.control, WITH_CONTROL.control)
    assert received.counted == WITH_CONTROL.counted
    assert request_digest(TRAIN, HEADER, received) == request_digest(TRAIN, HEADER, WITH_CONTROL)
    none_yet = read_model(model_record(HEADER, dataclasses.replace(WITH_CONTROL, counted={})))
    assert none_yet.counted == {}
    digests = {
        request_digest(TRAIN, HEADER, dataclasses.replace(WITH_CONTROL, counted=counted))
        for counted in ({}, {"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": 2})
    }
    assert len(digests) == 5
    other = dataclasses.replace(WITH_CONTROL, control=WITH_CONTROL.control + 1)
    assert request_digest(TRAIN, HEADER, other) not in digests


def _with_control(control, counted):
    content = model_record(HEADER, MODEL)
    if control is not None:
        content["control"] = ArrayRecord({n: Array(a) for n, a in control.items()})
    if counted is not None:
        content["counted"] = ConfigRecord(counted)
    return content


@pytest.mark.parametrize(
    ("control", "counted"),
    [
        ({"control": np.zeros(3, np.float32)}, None),
        (None, {"a": 1}),
        ({"control": np.zeros(3)}, {}),
        ({"control": np.full(3, np.nan, np.float32)}, {}),
        ({"control": np.zeros(3, np.float32), "more": np.zeros(1)}, {}),
        ({"control": np.zeros(3, np.float32)}, {"a": 0}),
        ({"control": np.zeros(3, np.float32)}, {"a": -1}),
        ({"control": np.zeros(3, np.float32)}, {"a": "1"}),
    ],
)
def test_a_malformed_control_variate_is_refused(control, counted):
    with pytest.raises(ProtocolError):
        read_model(_with_control(control, counted))


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_the_digest_covers_everything_that_a_site_takes_from_a_request(other):
    assert request_digest(*other) != request_digest(TRAIN, HEADER, MODEL)


def test_server_and_site_take_the_same_digest_of_one_request():
    received = read_model(model_record(HEADER, MODEL))
    assert request_digest(TRAIN, HEADER, received) == request_digest(TRAIN, HEADER, MODEL)


def _stream(arrays):
    """A request's arrays joined by line feeds, as no digest may do."""
    return b"".join(
        f"model\n{key}\n{array.dtype.str}\n{array.shape}\n".encode() + array.tobytes()
        for key, array in sorted(arrays.items())
    )


def test_no_two_requests_with_different_models_look_like_one():
    """Array names with line feeds, made so that both requests join to the same bytes."""
    counts = np.ones(2)
    first, second = (np.full(7, value, np.float32) for value in (1, 2))
    tail = _stream({"class-counts": counts, "parameters": first})
    body = _stream({"class-counts": counts, "parameters": second})
    filled = b"x\n|u1\n(0,)\n" + body + f"model\nz\n|u1\n({len(tail)},)\n".encode()
    one = {
        "a": np.frombuffer(filled, np.uint8),
        "class-counts": counts,
        "parameters": first,
    }
    other = {
        f"a\n|u1\n({len(filled)},)\nx": np.zeros(0, np.uint8),
        "class-counts": counts,
        "parameters": second,
        "z": np.frombuffer(tail, np.uint8),
    }
    assert _stream(one) == _stream(other)
    for arrays in (one, other):
        content = model_record(HEADER, MODEL)
        content["model"] = ArrayRecord({key: to_message(array) for key, array in arrays.items()})
        with pytest.raises(ProtocolError, match="names in its record 'model'"):
            read_model(content)


def _with(record, **changes):
    """A request in which one record has other entries; None takes one away."""
    content = model_record(HEADER, MODEL)
    for name, value in changes.items():
        key = name.replace("_", "-")
        if value is None:
            del content[record][key]
        else:
            content[record][key] = value
    return content


@pytest.mark.parametrize(
    "content",
    [
        _with("model", extra=to_message(ONES)),
        _with("model", class_counts=None),
        _with("model", parameters=None),
        _with("recipe", extra=1),
        _with("recipe", fitted_steps=None),
    ],
)
def test_a_name_too_many_or_too_few_is_refused(content):
    with pytest.raises(ProtocolError, match="malformed"):
        read_model(content)


def test_a_header_with_a_name_too_many_is_refused():
    content = header_record(HEADER)
    content["header"]["extra"] = 1
    with pytest.raises(ProtocolError, match="malformed"):
        read_header(content)


@pytest.mark.parametrize(
    "name", ["00.mean", "+0.mean", "\u0660.mean", "3.mean", "-1.mean", "mean", "0.", "0", ".mean"]
)
def test_a_fitted_constant_has_one_name(name):
    content = model_record(HEADER, MODEL)
    content["fitted"][name] = to_message(ONES)
    with pytest.raises(ProtocolError, match="belongs to no step"):
        read_model(content)


@pytest.mark.parametrize("steps", [-1, MAX_FITTED_STEPS + 1, 2**40, 2**62])
def test_no_memory_is_made_for_steps_that_only_a_number_claims(steps):
    with pytest.raises(ProtocolError, match="fitted steps"):
        read_model(_with("recipe", fitted_steps=steps))


# --- the rest -----------------------------------------------------------------------------------


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
